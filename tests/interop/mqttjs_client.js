// One scenario with MQTT.js against a broker: mqttjs_client.js SCENARIO VERSION PORT CA PREFIX.
// VERSION is 311 or 5. PORT is a TLS port when CA is not "-". Ends with 0 when all went as it should.
'use strict'
const fs = require('fs')
const assert = require('assert')
const mqtt = require('mqtt')

const [scenario, version, port, ca, prefix] = process.argv.slice(2)
const v5 = version === '5'
const LIMIT = 15000

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms))

class Client {
  constructor (name, { persistent = false, will, present = false } = {}) {
    Object.assign(this, { name, persistent, will, present, messages: [], waiting: [] })
  }

  async connect () {
    const options = {
      clientId: `${prefix}-${this.name}`,
      protocolVersion: v5 ? 5 : 4,
      clean: !this.persistent,
      reconnectPeriod: 0,
      will: this.will,
      ca: ca === '-' ? undefined : fs.readFileSync(ca)
    }
    if (v5 && this.persistent) options.properties = { sessionExpiryInterval: 600 }
    const url = ca === '-' ? `mqtt://127.0.0.1:${port}` : `mqtts://localhost:${port}`
    this.mqtt = mqtt.connect(url, options)
    this.mqtt.on('message', (topic, payload, packet) => {
      const message = { topic, payload: payload.toString(), qos: packet.qos, retain: packet.retain, packet }
      const waiting = this.waiting.shift()
      if (waiting) waiting(message)
      else this.messages.push(message)
    })
    const connack = await new Promise((resolve, reject) => {
      this.mqtt.once('connect', resolve)
      this.mqtt.once('error', reject)
    })
    assert.strictEqual(connack.sessionPresent, this.present, 'session present')
    return this
  }

  async subscribe (topic, qos) {
    const granted = await this.mqtt.subscribeAsync(topic, { qos })
    assert.strictEqual(granted[0].qos, qos, 'SUBACK')
    return this
  }

  publish (topic, payload, options) { return this.mqtt.publishAsync(topic, payload, options) }

  next () {
    if (this.messages.length > 0) return Promise.resolve(this.messages.shift())
    return new Promise((resolve) => this.waiting.push(resolve))
  }

  async nothingMore () {
    await sleep(300)
    assert.deepStrictEqual(this.messages, [], 'messages left over')
  }

  end () { return this.mqtt.endAsync() }

  async vanish () {
    this.mqtt.stream.destroy()
    await sleep(10)
  }
}

const connect = (name, options) => new Client(name, options).connect()

async function exchange (qos) {
  const topic = `${prefix}/exchange/${qos}`
  const subscriber = await (await connect('s')).subscribe(topic, qos)
  const publisher = await connect('p')
  for (let n = 0; n < 50; n++) await publisher.publish(topic, `message ${n}`, { qos })
  for (let n = 0; n < 50; n++) {
    const { payload, qos: got, retain } = await subscriber.next()
    assert.deepStrictEqual([payload, got, retain], [`message ${n}`, qos, false])
  }
  await subscriber.nothingMore()
  if (v5) {
    const properties = { contentType: 'text/plain', responseTopic: 'answer/here', userProperties: { key: 'value' } }
    await publisher.publish(topic, 'with properties', { qos, properties })
    const got = (await subscriber.next()).packet.properties
    assert.strictEqual(got.contentType, 'text/plain')
    assert.strictEqual(got.responseTopic, 'answer/here')
    assert.strictEqual(got.userProperties.key, 'value')
  }
  await publisher.end()
  await subscriber.end()
}

async function will () {
  const topic = `${prefix}/will`
  const subscriber = await (await connect('s')).subscribe(topic, 1)
  const first = await connect('d1', { will: { topic, payload: Buffer.from('gone'), qos: 1 } })
  await first.vanish()
  assert.strictEqual((await subscriber.next()).payload, 'gone')
  const second = await connect('d2', { will: { topic, payload: Buffer.from('never'), qos: 1 } })
  await second.end()
  await subscriber.nothingMore()
  await subscriber.end()
}

async function retained () {
  const topic = `${prefix}/retained`
  const publisher = await connect('p')
  await publisher.publish(topic, 'first', { qos: 1, retain: true })
  await publisher.publish(topic, 'second', { qos: 1, retain: true })
  const late = await (await connect('s1')).subscribe(`${prefix}/+`, 1)
  const message = await late.next()
  assert.deepStrictEqual([message.payload, message.retain], ['second', true])
  await publisher.publish(topic, '', { qos: 1, retain: true })
  assert.strictEqual((await late.next()).payload, '')
  const later = await (await connect('s2')).subscribe(`${prefix}/#`, 1)
  await later.nothingMore()
  for (const client of [publisher, late, later]) await client.end()
}

async function resume () {
  const topic = `${prefix}/resume`
  const first = await (await connect('s', { persistent: true })).subscribe(topic, 2)
  await first.end()
  const publisher = await connect('p')
  for (let n = 0; n < 20; n++) await publisher.publish(topic, String(n), { qos: 1 + n % 2 })
  const again = await connect('s', { persistent: true, present: true })
  // A client hands on QoS 2 at PUBREL: order is kept within a QoS, not across them.
  const came = { 1: [], 2: [] }
  for (let n = 0; n < 20; n++) {
    const { payload, qos } = await again.next()
    came[qos].push(Number(payload))
  }
  for (const qos of [1, 2]) assert.deepStrictEqual(came[qos], [...Array(10).keys()].map((n) => 2 * n + qos - 1))
  await again.nothingMore()
  for (const client of [publisher, again]) await client.end()
}

async function shared () {
  const topic = `${prefix}/shared`
  const members = []
  for (let n = 0; n < 3; n++) members.push(await (await connect(`s${n}`)).subscribe(`$share/group/${topic}`, 1))
  const publisher = await connect('p')
  const wanted = Array.from({ length: 60 }, (_, n) => String(n))
  for (const payload of wanted) await publisher.publish(topic, payload, { qos: 1 })
  await sleep(500)
  const parts = members.map((member) => member.messages.map((m) => m.payload))
  assert.deepStrictEqual(parts.flat().sort(), [...wanted].sort())
  assert(parts.every((part) => part.length > 0), 'each has some')
  for (const client of [...members, publisher]) await client.end()
}

const scenarios = { qos0: () => exchange(0), qos1: () => exchange(1), qos2: () => exchange(2), tls: () => exchange(1), will, retained, resume, shared }
setTimeout(() => { console.error('no answer in time'); process.exit(1) }, LIMIT).unref()
let finished = false
process.on('exit', (code) => { if (code === 0 && !finished) { console.error('ended early'); process.exitCode = 1 } })
scenarios[scenario]().then(() => { finished = true; process.exit(0) }, (why) => { console.error(why); process.exit(1) })
