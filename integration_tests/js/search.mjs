// Searches with opensearch-js in every way that it has, and prints what its caller sees of each: status, headers, body.
// node search.mjs URL INDEX TEMPLATE TEXT [gzip]
import { connect, refusing } from './client.mjs'

const [node, index, id, text, compression] = process.argv.slice(2)
const client = connect(node, compression)
const refused = refusing(see)
const seen = {}
const body = { query: { match: { title: text } }, size: 200 }
const source = { query: { match: { title: '{{text}}' } }, size: 200 }
const template = { id, params: { text } }

function see ({ statusCode, headers, body }) {
  const [mark, encoding] = ['x-gram-status', 'content-encoding'].map((name) => headers[name] ?? null)
  return { status: statusCode, 'x-gram-status': mark, 'content-encoding': encoding, body }
}

seen.info = see(await client.info())
seen.search = see(await client.search({ index, body }))
seen.in_off = see(await client.search({ index, body }, { headers: { 'x-gram-mode': 'off' } }))
seen.without_body = see(await client.search({ index, q: 'title:red', size: 3, sort: 'price' }))
seen.msearch = see(await client.msearch({
  body: [{ index }, body, { index }, { query: { term: { brand: 'b1' } }, size: 1 }, { index: 'nowhere' }, body]
}))
seen.stored_template = see(await client.searchTemplate({ index, body: template }))
seen.inline_template = see(await client.searchTemplate({ index, body: { source, params: { text } } }))
seen.msearch_template = see(await client.msearchTemplate({
  body: [{ index }, template, { index }, { source, params: { text } }, { index }, { id: 'nowhere', params: {} }]
}))
seen.render = see(await client.renderSearchTemplate({ body: template }))
seen.count = see(await client.count({ index, body: { query: body.query } }))
seen.get = see(await client.get({ index, id: '1' }))
seen.exists = see(await client.exists({ index, id: 'nothing' }))

const point = (await client.createPit({ index, keep_alive: '1m' })).body.pit_id
seen.pages = []
for (let after; ;) {
  const page = see(await client.search({
    body: {
      ...body, size: 25, pit: { id: point, keep_alive: '1m' }, sort: ['_score', { _id: 'asc' }], search_after: after
    }
  }))
  seen.pages.push(page)
  after = page.body.hits.hits.at(-1)?.sort
  if (!after) break
}
seen.closed = see(await client.deletePit({ body: { pit_id: [point] } })).status

seen.scroll = []
for await (const page of client.helpers.scrollSearch({ index, body: { ...body, size: 25 } })) seen.scroll.push(see(page))
seen.scrolled_documents = []
for await (const found of client.helpers.scrollDocuments({ index, body })) seen.scrolled_documents.push(found)
seen.documents = await client.helpers.search({ index, body })
const many = client.helpers.msearch()
seen.msearch_helper = await Promise.all([body, { ...body, from: 5 }].map(
  async (one) => (await many.search({ index }, one)).documents))
many.stop()

seen.bad_query = await refused(client.search({ index, body: { query: { nope: {} } } }))
seen.no_index = await refused(client.search({ index: 'nowhere', body }))
await client.close()
console.log(JSON.stringify(seen))
