package journal

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/linkspan/linkspan/message"
	"github.com/linkspan/linkspan/queue/internal/delivery"
	"github.com/linkspan/linkspan/queue/internal/plant"
)

// identify finds out which use of a segment this is, or that it is a spare.
func (r *recovery) identify(ctx context.Context, sc *scanner, s *segment) (used bool, err error) {
	epoch, key, damaged, err := sc.epoch(s.number, r.expected)
	if err != nil {
		return false, err
	}
	if damaged {
		r.e.report([]damage{{at: s.at(0)}})
	}
	if epoch == 0 {
		r.spares = append(r.spares, s)
		return false, nil
	}
	s.epoch, s.key = epoch, key
	if err := r.e.unlock(ctx, s); err != nil {
		return false, errors.Join(err, s.file.Close())
	}
	r.e.index.activate(s, epoch)
	return true, nil
}

// chain checks that the frame was written behind the one that came before it.
func (r *recovery) chain(s *segment, pos int64, h *frameHeader) {
	if h.number == r.expected && h.prev != r.prev && !plant.On(plant.NoChain) {
		r.e.log.Error("a frame does not belong behind the one before", slog.Any("segment", s.number), slog.Any("position", pos))
		r.e.report([]damage{{at: placeOf(s.number, pos)}})
	}
}

// frame takes in a frame whose header is intact.
func (r *recovery) frame(s *segment, pos int64, h frameHeader, crc uint32, stored []byte) {
	maybe := suspect{seg: s, pos: pos, end: pos + h.size(), known: true, torn: true, like: h}
	if checksum(stored[headerSize:headerSize+h.body]) != h.bodyCRC && !plant.On(plant.BodyCRC) {
		r.suspects = append(r.suspects, maybe)
		return
	}
	r.judge(h.number)
	if frame, ok := plainFrame(h, stored, s.aead); ok {
		r.apply(s, pos, h.size(), frame)
	} else {
		r.damaged(maybe, 1) // whole, and not what was written: no crash does that
	}
	r.expected, r.prev = h.number+1, crc
}

// apply takes in the records of a frame.
func (r *recovery) apply(s *segment, pos, size int64, frame []byte) {
	e := r.e
	body := frame[headerSize : headerSize+frameBody(frame)]
	for _, rec := range records(body) {
		e.found.Records++
		switch rec.kind {
		case recordTopic:
			r.topic(&rec)
		case recordPublish:
			if e.index.topic(rec.id) == nil { // its creation was lost to damage
				e.adopt(&topic{id: rec.id, name: fmt.Sprintf("lost+found/%d", rec.id)})
			}
			r.learn(e.index.topic(rec.id), &rec, frameTime(frame))
		default: // below, when all topics are known
		}
	}
	e.found.Frames++
	touched, gaps := e.index.add(s, pos, size, frame, false)
	for _, g := range gaps {
		e.lose(g)
	}
	for _, t := range touched {
		t.extend(t.log.end)
	}
	for _, rec := range records(body) {
		switch rec.kind {
		case recordSubscription:
			r.subscribe(&rec)
		case recordAck:
			r.ack(&rec)
		default:
			r.change(&rec)
		}
	}
}

// topic takes in a topic that is new or has new options.
func (r *recovery) topic(rec *record) {
	d := newDecoder(rec.body)
	name := d.string()
	o, held := d.options()
	if d.failed {
		return
	}
	if t := r.e.index.topic(rec.id); t != nil {
		t.configure(o, held)
		return
	}
	t := &topic{id: rec.id, name: name, o: o}
	t.held.Store(held)
	r.e.adopt(t)
}

// change takes in what happened to topics and subscriptions that are known. What is
// unknown here was dropped later.
func (r *recovery) change(rec *record) {
	switch rec.kind {
	case recordFailed:
		d := newDecoder(rec.body)
		f := d.failure(rec.offset)
		if s := r.e.subscriber(rec.id); s != nil && !d.failed && !plant.On(plant.NackForgotten) {
			s.win.Fail(f)
		}
	case recordSeek:
		if s := r.e.subscriber(rec.id); s != nil && !plant.On(plant.SeekForgotten) {
			s.seek(min(rec.offset, s.topic.log.end))
		}
	case recordPurge:
		if t := r.e.index.topic(rec.id); t != nil && !plant.On(plant.PurgeForgotten) {
			t.purge(min(rec.offset, t.log.end))
		}
	case recordDropTopic:
		if t := r.e.index.topic(rec.id); t != nil && !plant.On(plant.DeleteForgotten) {
			r.e.forget(t)
		}
	case recordDropSubscription:
		if s := r.e.subscriber(rec.id); s != nil {
			r.e.unregister(s)
		}
	default: // the others are taken in before
	}
}

// learn takes in the IDs of messages of topics that remember them.
func (r *recovery) learn(t *topic, rec *record, at int64) {
	var m message.Message
	if t.o.Dedup > 0 && !plant.On(plant.DedupForgets) && decodeMessage(rec.body, &m) == nil && m.ID != "" {
		t.known.learn([]fingerprint{t.fingerprint(m.ID)}, at)
	}
}

func (r *recovery) subscribe(rec *record) {
	e := r.e
	t := e.index.topic(uint32(rec.offset))
	if t == nil || e.subscriber(rec.id) != nil {
		return
	}
	d := newDecoder(rec.body)
	s := &subscriber{id: rec.id, topic: t, name: d.string()}
	start := d.set(maxOffset)
	if d.failed {
		return
	}
	s.win = delivery.New(start, t.log.end, e.now)
	e.register(s)
}

func (r *recovery) ack(rec *record) {
	s := r.e.subscriber(rec.id)
	if s == nil {
		return
	}
	end := s.topic.log.end
	decodeAck(rec, func(first, last uint64) bool {
		s.win.SettleRange(first, min(last, end))
		return last <= end
	})
}
