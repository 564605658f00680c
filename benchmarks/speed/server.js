// A server with Node's net: says slot 7 and waits for the client's end. Prints
// its port; answers each line of stdin with the CPU time (µs, user and system)
// that it has used so far; ends when stdin does.
"use strict";
const net = require("node:net");
const readline = require("node:readline");

const server = net.createServer({ noDelay: true }, (socket) => {
  socket.write("7\r\n");
  socket.resume();
  socket.on("error", () => {});
});
server.listen({ host: "127.0.0.1", port: 0, backlog: 1024 }, () =>
  console.log(server.address().port),
);
readline
  .createInterface({ input: process.stdin })
  .on("line", () => {
    const used = process.cpuUsage();
    console.log(used.user + used.system);
  })
  .on("close", () => process.exit());
