// Follow a job with the npm package eventsource, and say what came: node eventsource_client.mjs URL
import { EventSource } from "../static/node_modules/eventsource/dist/index.js";

const source = new EventSource(process.argv[2]);
const state = {};
let last = 0, rising = true;
const seen = (e) => { rising &&= Number(e.lastEventId) > last; last = Number(e.lastEventId); return JSON.parse(e.data); };
source.addEventListener("item", (e) => { const item = seen(e); state[item.id] = item.status; });
source.addEventListener("job", (e) => seen(e));
source.addEventListener("done", () => {
  console.log(JSON.stringify({ rising, statuses: Object.values(state) }));
  source.close();
});
