package vfs

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// datasync leaves out the metadata that nobody needs to read the data back, which
// nearly halves the cost on files whose blocks are written already.
func datasync(f *os.File) error {
	var err error
	conn, cerr := f.SyscallConn()
	if cerr != nil {
		return cerr
	}
	cerr = conn.Control(func(fd uintptr) {
		for {
			if err = unix.Fdatasync(int(fd)); !errors.Is(err, unix.EINTR) {
				return
			}
		}
	})
	if cerr != nil {
		return cerr
	}
	return os.NewSyscallError("fdatasync", err)
}
