//go:build !linux

package main

import (
	"errors"
	"fmt"
)

// dropCache is part of a measurement that needs Linux.
func dropCache(dir string) error {
	return fmt.Errorf("drop the cache of %s: %w", dir, errors.ErrUnsupported)
}
