// mqtt.mjs URL VERSION(4|5) USER PASSWORD TOPIC N: publishes N messages with each QoS by
// MQTT.js, all under way at once, and says how many were acknowledged.
import mqtt from 'mqtt';
const [url, version, username, password, topic, n] = process.argv.slice(2);
setTimeout(() => { console.error('timeout'); process.exit(1); }, 20000).unref();
const client = await mqtt.connectAsync(url, {
  protocolVersion: Number(version), username, password, clientId: `node-${version}-${process.pid}`, reconnectPeriod: 0,
});
const sent = [];
for (const qos of [0, 1, 2]) {
  for (let i = 0; i < Number(n); i++) {
    const properties = version === '5' ? { userProperties: { client: 'mqtt.js' }, contentType: 'application/json' } : undefined;
    sent.push(client.publishAsync(topic, JSON.stringify({ client: `mqtt.js-${version}`, qos, i }), { qos, properties }));
  }
}
await Promise.all(sent);
await client.endAsync();
console.log(sent.length);
