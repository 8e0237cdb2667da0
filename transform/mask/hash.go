package mask

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"sync"

	"golang.org/x/text/unicode/norm"

	"github.com/linkspan/linkspan/internal/config"
	"github.com/linkspan/linkspan/internal/jsonscan"
	"github.com/linkspan/linkspan/transform"
)

type hashArgs struct {
	// Domain keeps hashes apart: equal values hash alike in one domain and cannot be
	// joined across two. Default "default".
	Domain string `yaml:"domain"`
}

// compileHash replaces a text or a number by the first 16 bytes, in hexadecimal, of
// HMAC-SHA-256 (RFC 2104) over its canonical form: a tag for the kind, the length,
// and NFC text or RFC 8785 number text. Equal values in one domain give equal hashes.
// There is no variant without a key, because a plain hash of personal data is
// reversed by guessing.
func compileHash(args config.Node, c *transform.Compiler) Func {
	a := hashArgs{Domain: "default"}
	if !args.IsZero() {
		before := len(c.Report.Problems())
		config.Decode(args, &a, c.Report)
		if len(c.Report.Problems()) > before {
			return nil
		}
	}
	h := &hasher{}
	key, err := c.Keys.Derive("mask/v1|hash|" + a.Domain)
	if err == nil {
		h.pool.New = func() any { return &hashState{mac: hmac.New(sha256.New, key)} }
	}
	h.keyed = err == nil
	return h.mask
}

// hasher keeps prepared HMAC states, because preparing one costs more than a hash.
type hasher struct {
	pool  sync.Pool
	keyed bool
}

type hashState struct {
	mac  hash.Hash
	text []byte
	sum  []byte
	head [9]byte
}

func (h *hasher) mask(dst, raw []byte) ([]byte, error) {
	if !h.keyed {
		return nil, errKey
	}
	s := h.pool.Get().(*hashState) //nolint:forcetypeassert // the pool holds nothing else
	defer h.pool.Put(s)
	if err := s.canonical(raw); err != nil {
		return nil, err
	}
	s.mac.Reset()
	binary.BigEndian.PutUint64(s.head[1:], uint64(len(s.text)))
	s.mac.Write(s.head[:])
	s.mac.Write(s.text)
	s.sum = s.mac.Sum(s.sum[:0])
	clear(s.text)
	dst = append(dst, '"')
	dst = hex.AppendEncode(dst, s.sum[:16])
	return append(dst, '"'), nil
}

// canonical sets text and the kind tag so that one value has one form, and a number
// never hashes like the text of its digits.
func (s *hashState) canonical(raw []byte) error {
	switch jsonscan.KindOf(raw) {
	case jsonscan.String:
		text, err := jsonscan.AppendUnquoted(s.text[:0], raw)
		if err != nil {
			return errKind
		}
		s.head[0], s.text = 's', text
		if !norm.NFC.IsNormal(text) {
			s.text = norm.NFC.Bytes(text)
		}
		return nil
	case jsonscan.Number:
		v, err := jsonscan.DecodeScanned(raw)
		if err != nil {
			return errKind
		}
		text, err := jsonscan.Append(s.text[:0], v)
		if err != nil {
			return errKind
		}
		s.head[0], s.text = 'n', text
		return nil
	default:
		return errKind
	}
}
