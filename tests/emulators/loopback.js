// Preloaded into servers that listen on every interface and have no option for it: ports are opened on the loopback
// interface only.
'use strict';
const { Server } = require('node:net');

const HOST = '127.0.0.1';
const listen = Server.prototype.listen;

Server.prototype.listen = function (first, ...rest) {
  if (typeof first === 'number' || (typeof first === 'string' && /^\d+$/.test(first))) {
    const others = rest.filter((argument) => typeof argument !== 'string');
    return listen.call(this, Number(first), HOST, ...others);
  }
  if (first !== null && typeof first === 'object' && first.port !== undefined) {
    return listen.call(this, { ...first, host: HOST }, ...rest);
  }
  return listen.call(this, first, ...rest);
};
