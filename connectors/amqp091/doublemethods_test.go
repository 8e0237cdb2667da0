package amqp091

import "slices"

// method handles one method of an open channel.
func (ch *doubleChannel) method(id uint32, a args) {
	b := ch.session.broker
	if ch.closing {
		if id == chanCloseOk {
			delete(ch.session.channels, ch.id)
		}
		return
	}
	switch id {
	case chanClose:
		ch.end()
		delete(ch.session.channels, ch.id)
		ch.send(call091(chanCloseOk))
	case basicQos:
		a.u32()
		ch.prefetch = int(a.u16())
		ch.send(call091(basicQosOk))
	case confirmSelect:
		ch.confirm = true
		ch.send(call091(confirmSelectOk))
	case basicAck, basicReject, basicNack:
		ch.answer(id, a.u64(), a.u8())
	case basicPublish:
		a.u16()
		ch.incoming = &doubleMessage{exchange: a.short(), key: a.short()}
		ch.mandatory = a.u8()&1 != 0
	case basicConsume:
		a.u16()
		name, tag := a.short(), a.short()
		q := b.queues[name]
		if q == nil {
			ch.refuse(404, "NOT_FOUND - no queue '"+name+"'")
			return
		}
		ch.send(call091(basicConsumeOk).short(tag))
		b.consumed++
		q.consumers = append(q.consumers, &doubleConsumer{ch, tag})
		q.dispatch()
	case basicCancelOk:
	default:
		ch.declare(id, a)
	}
}

func (ch *doubleChannel) declare(id uint32, a args) {
	b := ch.session.broker
	a.u16()
	switch id {
	case queueDeclare:
		name, passive := a.short(), a.u8()&1 != 0
		if b.queues[name] == nil && passive {
			ch.refuse(404, "NOT_FOUND - no queue '"+name+"'")
			return
		}
		if b.queues[name] == nil {
			b.queues[name] = &doubleQueue{name: name}
		}
		ch.send(call091(queueDeclareOk).short(name).u32(0).u32(0))
	case exDeclare:
		name, _ := a.short(), a.short()
		passive := a.u8()&1 != 0
		if b.exchanges[name] == nil && passive {
			ch.refuse(404, "NOT_FOUND - no exchange '"+name+"'")
			return
		}
		if b.exchanges[name] == nil {
			b.exchanges[name] = []doubleBinding{}
		}
		ch.send(call091(exDeclareOk))
	case queueBind:
		queue, exchange, key := a.short(), a.short(), a.short()
		b.exchanges[exchange] = append(b.exchanges[exchange], doubleBinding{key, queue})
		ch.send(call091(queueBindOk))
	default:
		ch.refuse(540, "NOT_IMPLEMENTED")
	}
}

// answer handles what a consumer says about its messages.
func (ch *doubleChannel) answer(id uint32, tag uint64, bits byte) {
	multiple := id != basicReject && bits&1 != 0
	var tags []uint64
	for t := range ch.unacked {
		if t == tag || multiple && t < tag {
			tags = append(tags, t)
		}
	}
	if len(tags) == 0 {
		ch.refuse(406, "PRECONDITION_FAILED - unknown delivery tag")
		return
	}
	slices.Sort(tags)
	requeue := id == basicReject && bits&1 != 0 || id == basicNack && bits&2 != 0
	for _, t := range tags {
		u := ch.unacked[t]
		if requeue {
			ch.requeue(t)
			continue
		}
		delete(ch.unacked, t)
		if id != basicAck {
			u.queue.dead = append(u.queue.dead, u.message)
		}
	}
	for _, q := range ch.session.broker.queues {
		q.dispatch()
	}
}

// complete routes a message that has arrived whole.
func (ch *doubleChannel) complete() {
	m, b := ch.incoming, ch.session.broker
	if uint64(len(m.body)) < ch.expected {
		return
	}
	ch.incoming = nil
	ch.sent++
	if b.kill != nil {
		if code := b.kill(m.body); code != 0 {
			ch.refuse(code, "refused by the test, topic")
			return
		}
	}
	targets, known := b.exchanges[m.exchange]
	if m.exchange == "" {
		targets, known = []doubleBinding{{m.key, m.key}}, true
	}
	if !known {
		ch.refuse(404, "NOT_FOUND - no exchange '"+m.exchange+"'")
		return
	}
	if b.nack != nil && b.nack(m.body) {
		ch.send(call091(basicNack).u64(ch.sent).u8(0))
		return
	}
	taken := false
	for _, t := range targets {
		q := b.queues[t.queue]
		if q == nil || t.key != m.key {
			continue
		}
		taken = true
		b.sequence++
		copied := *m
		copied.sequence = b.sequence
		q.messages = append(q.messages, &copied)
		q.dispatch()
	}
	if !taken && ch.mandatory {
		ch.sendContent(call091(basicReturn).u16(312).short("NO_ROUTE").short(m.exchange).short(m.key), m)
	}
	switch {
	case !ch.confirm:
	case b.hold:
		ch.owed = append(ch.owed, ch.sent)
	default:
		ch.send(call091(basicAck).u64(ch.sent).u8(0))
	}
}
