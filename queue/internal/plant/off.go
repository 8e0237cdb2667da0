//go:build !planted

package plant

// On reports whether the mistake is switched on: never in this build.
func On(Bug) bool { return false }
