package generate

import (
	"fmt"
	"math/rand/v2"
	"strconv"
	"time"

	"github.com/linkspan/linkspan/message"
)

// generator makes messages into memory that it uses again.
type generator struct {
	source  string
	counter bool
	random  *rand.Rand
	bytes   []byte
}

// customers is the number of different customers, and so of order keys.
const customers = 1000

func (g *generator) fill(b *message.Batch, n int, made int64) {
	b.Messages, g.bytes = b.Messages[:0], g.bytes[:0]
	now := time.Now()
	for i := range n {
		seq := made + int64(i) + 1
		m := message.Message{
			ID: "gen-" + strconv.FormatInt(seq, 10), Topic: "generate", Time: now, ContentType: "application/json",
			Priority: message.NormalPriority, Source: g.source, Attempt: 1,
		}
		at := len(g.bytes)
		if g.counter {
			g.bytes = fmt.Appendf(g.bytes, `{"seq":%d}`, seq)
		} else {
			customer := g.random.IntN(customers) + 1
			g.order(seq, customer)
			m.Key = fmt.Appendf(nil, "c-%d", customer)
		}
		// A growing buffer moves; what was cut from the old one stays valid.
		m.Payload = g.bytes[at:len(g.bytes):len(g.bytes)]
		b.Messages = append(b.Messages, m)
	}
}

// order appends an order. All persons, addresses and card numbers are invented; the
// card numbers pass the Luhn check.
func (g *generator) order(seq int64, customer int) {
	r := g.random
	first := pick(r, "Ada", "Ben", "Chloé", "Dmitri", "Elif", "Farid", "Grace", "Hana", "Ivo", "Jun")
	last := pick(r, "Adler", "Brown", "Çelik", "Dubois", "Eriksen", "Fischer", "García", "Haddad", "Ito", "Jansen")
	total := 0
	lines := r.IntN(3) + 1
	items := make([]byte, 0, 256)
	for i := range lines {
		quantity, price := r.IntN(5)+1, r.IntN(20000)+99
		total += quantity * price
		if i > 0 {
			items = append(items, ',')
		}
		items = fmt.Appendf(items, `{"sku":"%s-%03d","quantity":%d,"price":%d.%02d}`,
			pick(r, "BOLT", "GEAR", "PUMP", "SEAL", "VALVE"), r.IntN(1000), quantity, price/100, price%100)
	}
	g.bytes = fmt.Appendf(g.bytes, `{"id":"o-%d","type":"order","seq":%d,"region":"%s","status":"%s",`+
		`"customer":{"id":"c-%d","name":"%s %s","email":"user%d@example.com","phone":"+1-555-01%02d"},`+
		`"card":{"number":"%s","expires":"%02d/%02d"},"items":[%s],"total":%d.%02d,"currency":"%s"}`,
		seq, seq, pick(r, "eu", "us", "ca", "apac"), pick(r, "new", "paid", "shipped", "cancelled"),
		customer, first, last, customer, customer%100,
		card(r), r.IntN(12)+1, r.IntN(5)+27, items, total/100, total%100, pick(r, "EUR", "USD", "CAD", "JPY"))
}

func pick(r *rand.Rand, from ...string) string { return from[r.IntN(len(from))] }

// card returns sixteen digits, of which the last is the check digit.
func card(r *rand.Rand) string {
	digits := []byte("400000")
	for len(digits) < 15 {
		digits = append(digits, byte('0'+r.IntN(10)))
	}
	sum := 0
	for i, d := range digits {
		v := int(d - '0')
		if i%2 == 0 {
			if v *= 2; v > 9 {
				v -= 9
			}
		}
		sum += v
	}
	return string(append(digits, byte('0'+(10-sum%10)%10)))
}
