package jsonscan

import (
	"bytes"
	"os"
	"testing"
)

func orders(t testing.TB) [][]byte {
	t.Helper()
	b, err := os.ReadFile("testdata/orders.ndjson")
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Split(bytes.TrimSpace(b), []byte("\n"))
}

func orderSet(t testing.TB) (*Set, []int) {
	t.Helper()
	set, slots, err := NewSet("status", "total", "channel", "customer.email", "customer.name", "payment.card_number",
		"shipping_address.country", "items[*].sku", "order_id", "priority", "currency")
	if err != nil {
		t.Fatal(err)
	}
	return set, slots
}

func size(docs [][]byte) (n int64) {
	for _, d := range docs {
		n += int64(len(d))
	}
	return n / int64(len(docs))
}

func BenchmarkScan(b *testing.B) {
	docs := orders(b)
	set, _ := orderSet(b)
	for _, c := range []struct {
		name string
		set  *Set
	}{{"only", nil}, {"paths", set}} {
		b.Run(c.name, func(b *testing.B) {
			var d Doc
			b.SetBytes(size(docs))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				d.Reset(c.set, docs[i&7])
				if err := d.Scan(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// work filters by two members, replaces three, sets one and adds one.
func work(d *Doc, s []int, dst []byte) []byte {
	status, ok := d.Get(s[0])
	if !ok || len(status) == 0 {
		return dst
	}
	if total, ok := d.Get(s[1]); !ok || len(total) == 0 {
		return dst
	}
	_ = d.Set(s[3], []byte(`"0123456789abcdef"`))
	_ = d.Set(s[4], []byte(`"***"`))
	_ = d.Set(s[5], []byte(`"************4242"`))
	_ = d.Set(s[9], []byte(`5`))
	d.Unset(s[2])
	return d.AppendTo(dst)
}

func BenchmarkFilterAndFiveEdits(b *testing.B) {
	docs := orders(b)
	set, s := orderSet(b)
	var d Doc
	var out []byte
	b.SetBytes(size(docs))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		d.Reset(set, docs[i&7])
		out = work(&d, s, out[:0])
	}
}

func TestNoAllocations(t *testing.T) {
	docs := orders(t)
	set, s := orderSet(t)
	wide := []byte(`{"k0":0`)
	for i := range 100 {
		wide = append(wide, `,"k`+string(rune('a'+i/10))+string(rune('a'+i%10))+`\n":{"a":1}`...)
	}
	docs = append(docs, append(wide, '}'))
	var d Doc
	out := make([]byte, 0, 1<<14)
	masked := []byte(`"x"`)
	mask := func([]byte) ([]byte, error) { return masked, nil }
	run := func() {
		for _, raw := range docs {
			d.Reset(set, raw)
			if err := d.Scan(); err != nil {
				t.Fatal(err)
			}
			out = work(&d, s, out[:0])
			if err := d.Each(s[7], mask); err != nil {
				t.Fatal(err)
			}
			d.Get(0)
			out = d.AppendTo(out[:0])
		}
	}
	run()
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
}
