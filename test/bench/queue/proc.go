package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// written returns the bytes that this process has given to write calls (wchar).
//
// write_bytes would be nearer to the disk, but a kernel with large folios counts a
// whole folio when a part of it becomes dirty, which is many times what reaches the
// disk.
func written() (int64, error) { return procField("/proc/self/io", "wchar") }

// memory returns the resident memory of this process and its peak, in bytes.
func memory() (now, peak int64, err error) {
	if now, err = procField("/proc/self/status", "VmRSS"); err != nil {
		return 0, 0, err
	}
	peak, err = procField("/proc/self/status", "VmHWM")
	return now << 10, peak << 10, err
}

// procField returns the number behind name in a file of lines "name: number".
func procField(file, name string) (int64, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(data)); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		if key == name {
			number, _, _ := strings.Cut(strings.TrimSpace(value), " ")
			return strconv.ParseInt(number, 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, name)
}
