// stomp.mjs HOST PORT USER PASSWORD DESTINATION N: sends N messages with receipts and N
// in a transaction by stompit, and says how many there are.
import stompit from 'stompit';
const [host, port, login, passcode, destination, n] = process.argv.slice(2);
setTimeout(() => { console.error('timeout'); process.exit(1); }, 20000).unref();
stompit.connect({ host, port: Number(port), connectHeaders: { host: '/', login, passcode, 'heart-beat': '1000,1000' } }, (err, client) => {
  if (err) throw err;
  client.on('error', (e) => { throw e; });
  const send = (sender, i, way, done) => {
    const frame = sender.send({ destination, 'content-type': 'application/json', client: 'stompit' }, { onReceipt: done });
    frame.end(JSON.stringify({ client: 'stompit', way, i }));
  };
  let left = Number(n);
  const transaction = () => {
    const tx = client.begin();
    for (let i = 0; i < Number(n); i++) send(tx, i, 'transaction');
    tx.commit({ onReceipt: () => { console.log(2 * n); client.disconnect(() => process.exit(0)); } });
  };
  for (let i = 0; i < Number(n); i++) send(client, i, 'receipt', () => { if (--left === 0) transaction(); });
});
