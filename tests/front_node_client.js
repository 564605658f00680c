// A client of a slot server as the Node client rover is one: the first chunk must be a slot
// line, whole and alone; what follows is the protocol's. Usage: front_node_client.js PORT
// It talks to redis over 50 connections that come and go, at most 10 at a time, and checks that
// each has the lowest slot that no other one has. Prints the slots, and exits with 0 if all is well.
'use strict';

const net = require('net');

const port = Number(process.argv[2]);
const CONNECTIONS = 50;
const AT_A_TIME = 10;
const open = new Map(); // sockets by slot

function connect() {
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, '127.0.0.1');
    let slot = null;
    let answer = '';
    socket.on('error', reject);
    socket.on('end', () => reject(new Error('it ended')));
    socket.on('data', (chunk) => {
      const text = chunk.toString('latin1');
      if (slot === null) {
        if (!/^\d+\r\n$/.test(text)) {
          reject(new Error(`no plain slot line: ${JSON.stringify(text)}`));
          return;
        }
        slot = Number(text);
        socket.write('PING\r\n');
        return;
      }
      answer += text;
      if (answer === '+PONG\r\n') {
        resolve([slot, socket]);
      } else if (!'+PONG\r\n'.startsWith(answer)) {
        reject(new Error(`no PONG: ${JSON.stringify(answer)}`));
      }
    });
  });
}

function close(socket) {
  return new Promise((resolve) => {
    socket.removeAllListeners('end');
    socket.on('close', resolve);
    socket.end();
  });
}

function lowestFree() {
  let slot = 0;
  while (open.has(slot)) slot += 1;
  return slot;
}

async function main() {
  const slots = [];
  while (slots.length < CONNECTIONS) {
    if (open.size === AT_A_TIME) {
      const some = [...open.keys()].filter((slot) => (slot * 7 + slots.length) % 3 === 0);
      for (const slot of some) {
        const socket = open.get(slot);
        open.delete(slot);
        await close(socket);
      }
    }
    const [slot, socket] = await connect();
    if (slot !== lowestFree()) {
      throw new Error(`slot ${slot}, but ${lowestFree()} is free`);
    }
    open.set(slot, socket);
    slots.push(slot);
  }
  await Promise.all([...open.values()].map(close));
  console.log(slots.join(' '));
}

main().catch((error) => {
  console.error(error.stack);
  process.exit(1);
});
