//go:build planted

package plant

import "os"

// On reports whether the mistake is the one that LINKSPAN_PLANT names.
func On(b Bug) bool { return os.Getenv("LINKSPAN_PLANT") == string(b) }
