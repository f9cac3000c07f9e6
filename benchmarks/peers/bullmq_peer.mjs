// node bullmq_peer.mjs FOLDER-WITH-node_modules QUEUES EACH own|shared
// Says "ready" when all workers are connected, begins when it is told "go", says "done" when all jobs are completed.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const [folder, queueCount, each] = [process.argv[2], Number(process.argv[3]), Number(process.argv[4])];
const require = createRequire(`${folder}/`);
const { Queue, Worker } = require('bullmq');
const IORedis = require('ioredis');

let connection = { url: process.env.REDIS_URL };
if (process.argv[5] === 'shared') {
  connection = new IORedis(process.env.REDIS_URL, { maxRetriesPerRequest: null });
  connection.setMaxListeners(0);
}
const workers = [];
let completed = 0;
for (let number = 0; number < queueCount; number++) {
  const name = `peer-${number}`;
  const queue = new Queue(name, { connection });
  await queue.addBulk(
    Array.from({ length: each }, (_, at) => ({ name: 'job', data: { row: at }, opts: { removeOnComplete: true } })),
  );
  if (process.argv[5] === 'own') await queue.close();
  const worker = new Worker(name, async () => {}, { connection, autorun: false });
  worker.on('completed', () => {
    if (++completed === queueCount * each) console.log('done');
  });
  await worker.waitUntilReady();
  workers.push(worker);
}
console.log('ready');
createInterface({ input: process.stdin }).once('line', () => workers.forEach((worker) => worker.run()));
