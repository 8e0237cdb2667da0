package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// order is what the checks read of a payload.
type order struct {
	Seq      int     `json:"seq"`
	Channel  string  `json:"channel"`
	Status   string  `json:"status"`
	Total    float64 `json:"total"`
	Customer struct {
		Name  *string `json:"name"`
		Email string  `json:"email"`
	} `json:"customer"`
	Payment struct {
		Card string `json:"card_number"`
	} `json:"payment"`
	Pipeline   string `json:"pipeline"`
	TotalCents int    `json:"total_cents"`
}

// template is an order without its number.
type template struct {
	order
	head, tail []byte
	kept       bool // by the filter
}

// templates are 200 orders of 1.1 KB; the orders that are sent are these in rotation,
// each with a number of its own.
func templates(root string) ([]template, error) {
	data, err := os.ReadFile(filepath.Join(root, "pipelines", "testdata", "orders.ndjson"))
	if err != nil {
		return nil, err
	}
	var out []template
	for line := range bytes.Lines(data) {
		line = bytes.TrimSpace(line)
		var t template
		if err := json.Unmarshal(line, &t.order); err != nil {
			return nil, err
		}
		mark := fmt.Appendf(nil, `"seq":%d`, t.Seq)
		at := bytes.Index(line, mark)
		if at < 0 {
			return nil, fmt.Errorf("order %d has no number", t.Seq)
		}
		t.head, t.tail = line[:at+len(`"seq":`)], line[at+len(mark):]
		t.kept = t.Status == "paid" && t.Total >= 20
		out = append(out, t)
	}
	return out, nil
}

// work is a number of orders and what has to become of them.
type work struct {
	templates []template
	n         int
}

func (w *work) of(seq int) *template { return &w.templates[seq%len(w.templates)] }

// payload returns the order of a number.
func (w *work) payload(seq int) []byte {
	t := w.of(seq)
	b := make([]byte, 0, len(t.head)+len(t.tail)+8)
	return append(strconv.AppendInt(append(b, t.head...), int64(seq), 10), t.tail...)
}

// kept is how many of them pass the filter.
func (w *work) kept() int {
	n := 0
	for seq := range w.n {
		if w.of(seq).kept {
			n++
		}
	}
	return n
}

// seqOf returns the number of the order in a payload, and -1 when there is none.
func seqOf(payload []byte) int {
	_, rest, ok := bytes.Cut(payload, []byte(`"seq":`))
	end := bytes.IndexAny(rest, ",}")
	if !ok || end < 0 {
		return -1
	}
	seq, err := strconv.Atoi(string(rest[:end]))
	if err != nil {
		return -1
	}
	return seq
}

// right reports whether a payload is what the steps make of the order.
func (t *template) right(payload []byte) bool {
	var got order
	if json.Unmarshal(payload, &got) != nil {
		return false
	}
	card := t.Payment.Card
	return got.Customer.Name == nil && got.Pipeline == "orders-v1" && got.TotalCents == int(math.Round(t.Total*100)) &&
		len(got.Customer.Email) >= 32 && !strings.Contains(got.Customer.Email, "@") &&
		got.Payment.Card == strings.Repeat("*", len(card)-4)+card[len(card)-4:]
}
