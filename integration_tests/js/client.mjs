// What the programs beside this one share: a client, and requests that have to be refused.
import { Client } from '@opensearch-project/opensearch'

export function connect (node, compression) {
  return new Client(compression ? { node, compression, suggestCompression: true } : { node })
}

// What `see` shows of a refusal, with the name and the message of the error that the caller gets.
export function refusing (see) {
  return async function refused (request) {
    try {
      await request
    } catch (error) {
      return { ...see(error.meta), name: error.name, message: error.message }
    }
    throw new Error('this request had to be refused')
  }
}
