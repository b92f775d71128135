// Writes with opensearch-js in every way that it has, and prints what its caller sees of each.
// node ingest.mjs URL INDEX [gzip]
import { connect, refusing } from './client.mjs'

const [node, index, compression] = process.argv.slice(2)
const client = connect(node, compression)
const refused = refusing(see)
const seen = {}

function see ({ statusCode, headers, body }) {
  return { status: statusCode, 'x-gram-status': headers['x-gram-status'] ?? null, body }
}

async function * products (count) {
  for (let n = 0; n < count; n++) yield { id: String(n), title: `shoe number${n}`, price: n % 40 === 7 ? 'cheap' : n / 4 }
}

// Small requests, several at a time, as the helper does it; what is dropped comes in no fixed order.
async function bulk (datasource, onDocument) {
  const dropped = []
  const { time, ...stats } = await client.helpers.bulk({
    datasource, onDocument, onDrop: (drop) => dropped.push(drop), flushBytes: 2000, refreshOnCompletion: index
  })
  return { stats, dropped: dropped.sort((one, other) => JSON.stringify(one.operation) < JSON.stringify(other.operation) ? -1 : 1) }
}

const at = (id) => ({ _index: index, _id: id })

seen.index = see(await client.index({ index, id: 'first', body: { title: 'red shoe', price: 1.5 }, refresh: true }))
seen.bulk_index = await bulk(products(120), ({ id }) => ({ index: at(id) }))
seen.bulk_create = await bulk(
  [{ id: 'first', title: 'created twice' }, { id: 'second', title: 'blue shoe' }], ({ id }) => ({ create: at(id) }))
seen.bulk_update = await bulk(
  [{ id: '1', title: 'brown boot' }, { id: '2', price: 77 }, { id: 'nothing', price: 1 }, { id: 'third', title: 'sock' }],
  ({ id }) => [{ update: at(id) }, id === 'third' ? { doc_as_upsert: true } : {}])
seen.bulk_delete = await bulk([{ id: '3' }, { id: 'nothing' }], ({ id }) => ({ delete: at(id) }))
seen.bulk = see(await client.bulk({
  index,
  refresh: 'wait_for',
  body: [
    { index: { _id: 'fourth' } }, { title: 'green shoe' },
    { index: { _id: 'fifth' } }, { title: 'shoe', price: 'dear' },
    { create: { _id: 'first' } }, { title: 'created twice' },
    { update: { _id: 'fourth' } }, { doc: { title: 'green boot' } },
    { update: { _id: 'nothing' } }, { doc: { price: 2 } },
    { delete: { _id: '4' } }, { delete: { _id: 'nothing' } },
    { index: { _id: 'first', if_seq_no: 9999, if_primary_term: 1 } }, { title: 'too late' }
  ]
}))
seen.update = see(await client.update({ index, id: '5', body: { doc: { title: 'white shoe' } } }))
seen.upsert = see(await client.update({ index, id: 'sixth', body: { doc: {}, upsert: { title: 'new shoe' } } }))
seen.noop = see(await client.update({ index, id: 'first', body: { doc: { price: 1.5 } } }))
seen.script = see(await client.update({ index, id: '8', body: { script: { source: 'ctx._source.price = 3' } } }))
seen.delete = see(await client.delete({ index, id: '9', refresh: true }))
seen.no_document = await refused(client.update({ index, id: 'nothing', body: { doc: { price: 1 } } }))
seen.nothing_to_delete = await refused(client.delete({ index, id: 'nothing' }))
seen.conflict = await refused(client.create({ index, id: 'first', body: { title: 'created twice' } }))
seen.bad_document = await refused(client.index({ index, id: 'bad', body: { title: 'shoe', price: 'cheap' } }))
seen.bad_line = await refused(client.bulk({ index, body: ['{"explode": {}}', '{"title": "shoe"}'] }))
seen.same_title = see(await client.update({ index, id: '10', body: { doc: { title: 'shoe number10' } } }))
await client.close()
console.log(JSON.stringify(seen))
