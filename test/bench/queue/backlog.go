package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/linkspan/linkspan/internal/run"
)

// The backlog is measured in processes of their own, so that their memory is that of
// one engine, and so that the first can be killed.

// loaded is what the loading process reports while it goes on publishing.
type loaded struct {
	PerSecond float64
	Written   float64 // bytes for each byte of payload
	Resident  int64   // bytes
}

// drained is what the process reports that opens the directory again.
type drained struct {
	Opening          time.Duration
	OpenResident     int64 // bytes, after opening
	PerSecond        float64
	DrainingResident int64 // bytes, the peak
}

const loaders = 512

// backlog loads a directory in one child, kills it with SIGKILL while it publishes,
// and opens and drains the directory in another.
func backlog(ctx context.Context, v variant, dir string, n int) (l loaded, d drained, err error) {
	dir = filepath.Join(dir, "backlog-"+v.name)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return l, d, err
	}
	if err := child(ctx, v, "load", dir, n, &l); err != nil {
		return l, d, err
	}
	if err := child(ctx, v, "drain", dir, n, &d); err != nil {
		return l, d, err
	}
	return l, d, os.RemoveAll(dir)
}

// child runs this program in another role, reads one report and kills it.
func child(ctx context.Context, v variant, role, dir string, n int, report any) (err error) {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, "-role", role, "-engine", v.name, "-dir", dir, "-backlog", strconv.Itoa(n)) //nolint:gosec // it is this program
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe() // the child ends when it closes
	if err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() {
		kill := cmd.Process.Kill()
		if errors.Is(kill, os.ErrProcessDone) {
			kill = nil
		}
		_ = cmd.Wait() // it was killed, and says so
		err = errors.Join(err, kill, ignoreClosed(in.Close()))
	}()
	if err := json.NewDecoder(out).Decode(report); err != nil {
		return fmt.Errorf("%s of %s: %w", role, v.name, err)
	}
	return nil
}

func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// load publishes, reports after n messages and goes on until it is killed or in ends.
func load(ctx context.Context, v variant, dir string, n int, in io.Reader, out io.Writer) error {
	s, err := v.open(ctx, dir, 1)
	if err != nil {
		return err
	}
	pool, start := newPool(), time.Now()
	var count atomic.Int64
	g := run.NewGroup(ctx)
	g.Go("parent", func(context.Context) error {
		if _, err := io.Copy(io.Discard, in); err != nil {
			return err
		}
		return errors.New("the parent has ended")
	})
	for p := range loaders {
		g.Go("publisher", func(ctx context.Context) error {
			send, payload := s.publisher(0), payloads(pool, uint64(p))
			for ctx.Err() == nil {
				if err := send(ctx, payload()); err != nil {
					return err
				}
				if count.Add(1) == int64(n) {
					if err := reportLoad(out, n, time.Since(start)); err != nil {
						return err
					}
				}
			}
			return ctx.Err()
		})
	}
	return g.Wait()
}

func reportLoad(out io.Writer, n int, took time.Duration) error {
	bytes, err := written()
	if err != nil {
		return err
	}
	now, _, err := memory()
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(loaded{
		PerSecond: float64(n) / took.Seconds(),
		Written:   float64(bytes) / float64(n) / payloadSize,
		Resident:  now,
	})
}

// drain opens the directory as the kill left it and consumes n messages, which it reads
// from the disk.
func drain(ctx context.Context, v variant, dir string, n int, out io.Writer) (err error) {
	var d drained
	start := time.Now()
	s, err := v.open(ctx, dir, 1)
	if err != nil {
		return err
	}
	d.Opening = time.Since(start)
	if d.OpenResident, _, err = memory(); err != nil {
		return err
	}
	if err := dropCache(dir); err != nil {
		return err
	}
	start = time.Now()
	if err := consumeAll(ctx, s, n); err != nil {
		return err
	}
	d.PerSecond = float64(n) / time.Since(start).Seconds()
	if _, d.DrainingResident, err = memory(); err != nil {
		return err
	}
	return errors.Join(json.NewEncoder(out).Encode(d), s.close(ctx))
}

func consumeAll(ctx context.Context, s store, n int) error {
	if err := s.subscribe(ctx); err != nil {
		return err
	}
	var count atomic.Int64
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	g := run.NewGroup(ctx)
	for range consumers {
		g.Go("consumer", func(ctx context.Context) error {
			for count.Load() < int64(n) {
				got, err := s.consume(ctx, receiveLimit)
				if errors.Is(err, context.Canceled) {
					return nil
				}
				if err != nil {
					return err
				}
				count.Add(int64(got))
			}
			stop()
			return nil
		})
	}
	return g.Wait()
}
