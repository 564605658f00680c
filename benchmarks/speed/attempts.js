// The attempts of attempts.py with Node's net: reads a count from a line of
// stdin, makes as many, 50 in flight, and prints the CPU time (µs, user and
// system) that they took. One process for all rounds: neither its start nor
// the compiling of its code is measured.
"use strict";
const { EventEmitter } = require("node:events");
const net = require("node:net");
const readline = require("node:readline");

const IN_FLIGHT = 50;
const TIMEOUT = 5000;
const addresses = JSON.parse(process.argv[2]);
const rover = new EventEmitter();
rover.on("connection", (slot, socket) => socket.destroy());

function attempt(done) {
  const [host, port] = addresses[Math.floor(Math.random() * addresses.length)];
  const socket = net.connect({ host, port, noDelay: true });
  const deadline = setTimeout(() => socket.destroy(new Error("no slot line")), TIMEOUT);
  let line = "";
  socket.on("data", (data) => {
    line += data.toString("latin1");
    if (line.endsWith("\r\n")) rover.emit("connection", parseInt(line, 10), socket);
  });
  socket.on("close", () => {
    clearTimeout(deadline);
    done();
  });
}

function measure(count) {
  const began = process.cpuUsage();
  let left = count;
  let done = 0;
  function next() {
    if (left-- > 0) attempt(finished);
  }
  function finished() {
    if (++done === count) {
      const used = process.cpuUsage(began);
      console.log(used.user + used.system);
    } else next();
  }
  for (let i = 0; i < Math.min(IN_FLIGHT, count); i++) next();
}

readline.createInterface({ input: process.stdin }).on("line", (line) => measure(Number(line)));
