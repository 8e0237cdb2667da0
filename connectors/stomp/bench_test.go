package stomp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/linkspan/linkspan/message"
)

// BenchmarkListener sends to a listener without waiting for single receipts: a receipt
// is asked for with the last frame of each 64.
func BenchmarkListener(b *testing.B) {
	for _, size := range []int{256, 4096} {
		b.Run(fmt.Sprintf("%d bytes", size), func(b *testing.B) {
			take := message.HandlerFunc(func(context.Context, *message.Batch) error { return nil })
			addr, _ := startListener(b, take, nil)
			c := dialRaw(b, addr)
			c.connect("1.2")
			body := bytes.Repeat([]byte("x"), size)
			one := fmt.Sprintf("SEND\ndestination:/queue/a\ncontent-type:application/json\ncontent-length:%d\nx-region:eu\n\n%s\x00", size, body)
			last := fmt.Sprintf("SEND\ndestination:/queue/a\nreceipt:1\ncontent-length:%d\n\n%s\x00", size, body)
			chunk := []byte(bytesRepeat(one, 63) + last)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			b.ResetTimer()
			const ahead = 16
			receipts := make(chan struct{}, ahead)
			go func() { countReceipts(c.conn, receipts) }()
			for i := 0; i < b.N; i += 64 {
				if i/64 >= ahead {
					<-receipts
				}
				if _, err := c.conn.Write(chunk); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func bytesRepeat(s string, n int) string { return string(bytes.Repeat([]byte(s), n)) }

// countReceipts notes every frame that comes.
func countReceipts(conn net.Conn, receipts chan<- struct{}) {
	buf := make([]byte, 4096)
	for {
		n, err := conn.Read(buf)
		for range bytes.Count(buf[:n], []byte{0}) {
			receipts <- struct{}{}
		}
		if err != nil {
			return
		}
	}
}

// BenchmarkSink sends batches of 256 to a peer that only writes receipts.
func BenchmarkSink(b *testing.B) {
	for _, tx := range []bool{false, true} {
		b.Run(fmt.Sprintf("transactions %v", tx), func(b *testing.B) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				b.Fatal(err)
			}
			defer ln.Close()
			go answerAll(ln)
			s := testSink(b, ln.Addr().String(), func(c *SinkConfig) { c.Transactions = tx })
			batch := batchOf(256)
			for i := range batch.Messages {
				batch.Messages[i].Payload = bytes.Repeat([]byte("x"), 256)
				batch.Messages[i].Headers.Set("x-region", message.String("eu"))
			}
			if err := s.Open(b.Context()); err != nil {
				b.Fatal(err)
			}
			b.SetBytes(256)
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; i < b.N; i += 256 {
				if err := s.Handle(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// answerAll confirms everything that asks for a receipt.
func answerAll(ln net.Listener) {
	conn, err := ln.Accept()
	if err != nil {
		return
	}
	defer conn.Close()
	l := newLink(conn, limits{maxHead, 256, 1 << 20})
	var out []byte
	for {
		f, ok, err := l.stream.next()
		switch {
		case err != nil:
			return
		case !ok:
			if len(out) > 0 {
				_, _ = conn.Write(out)
				out = out[:0]
			}
			if l.stream.fill() != nil {
				return
			}
		case f.Command == "CONNECT":
			_, _ = io.WriteString(conn, "CONNECTED\nversion:1.2\n\n\x00")
		default:
			if id := f.Header.Get("receipt"); id != "" {
				out = append(append(append(out, "RECEIPT\nreceipt-id:"...), id...), "\n\n\x00"...)
			}
		}
	}
}
