package journal

import (
	"context"
	"errors"
	"log/slog"

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
