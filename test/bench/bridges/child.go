package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/linkspan/linkspan/internal/run"
)

// child is a bridge that runs.
type child struct {
	cmd   *exec.Cmd
	admin string
	log   bytes.Buffer
	ended chan struct{}
}

// start runs a program with ADMIN, the address of its health checks, in its environment.
// The arguments may name it as ${ADMIN}.
func start(ctx context.Context, g *run.Group, name string, args, env []string) (*child, error) {
	admin, err := freeAddress(ctx)
	if err != nil {
		return nil, err
	}
	c := &child{admin: admin, ended: make(chan struct{})}
	for i := range args {
		args[i] = strings.ReplaceAll(args[i], "${ADMIN}", admin)
	}
	c.cmd = exec.CommandContext(ctx, name, args...) //nolint:gosec // it was built here, or the user named it
	c.cmd.Env = append(os.Environ(), append(env, "ADMIN="+admin)...)
	c.cmd.Stdout, c.cmd.Stderr = &c.log, &c.log
	if err := c.cmd.Start(); err != nil {
		return nil, err
	}
	g.Go("child", func(context.Context) error {
		_ = c.cmd.Wait() // it is killed, or ready and await say that it ended
		close(c.ended)
		return nil
	})
	return c, nil
}

func freeAddress(ctx context.Context) (string, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// ready waits until the bridge says that it is.
func (c *child) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for run.Pause(ctx, time.Millisecond) {
		select {
		case <-c.ended:
			return c.failure("it ended")
		default:
		}
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+c.admin+"/ready", http.NoBody)
		if err != nil {
			return err
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			continue // it does not listen yet
		}
		if err := resp.Body.Close(); err != nil {
			return err
		}
		if resp.StatusCode == http.StatusOK {
			return nil
		}
	}
	return c.failure("it does not become ready")
}

func (c *child) failure(what string) error {
	c.kill()
	return fmt.Errorf("%s: %s\n%s", c.cmd.Path, what, c.tail())
}

// tail returns the end of what the process has logged. It has ended.
func (c *child) tail() string {
	log := c.log.String()
	return log[max(0, len(log)-2000):]
}

// kill ends the process and waits until it is gone.
func (c *child) kill() {
	if err := c.cmd.Process.Kill(); err == nil || errors.Is(err, os.ErrProcessDone) {
		<-c.ended
	}
}

// cpu returns the user and system time that the process has used.
func (c *child) cpu() (time.Duration, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", c.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	// The second field is the name in brackets, which may hold anything; utime and stime
	// are the 14th and 15th (proc(5)), in hundredths of a second on every architecture.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	if len(fields) < 13 {
		return 0, errors.New("/proc/PID/stat is too short")
	}
	user, err := strconv.Atoi(fields[11])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, err
}
