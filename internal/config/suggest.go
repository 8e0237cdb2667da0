package config

import (
	"slices"
	"strings"
)

// Suggest returns what to write instead of an unknown name: the nearest known one,
// or all of them when none is near.
func Suggest(name string, known []string) string {
	if best := nearest(name, known); best != "" {
		return "did you mean `" + best + "`?"
	}
	sorted := slices.Sorted(slices.Values(known))
	if len(sorted) == 0 {
		return ""
	}
	if len(sorted) > 16 {
		return "known names include: " + strings.Join(sorted[:16], ", ") + ", …"
	}
	return "known names: " + strings.Join(sorted, ", ")
}

// nearest returns the known name that was probably meant, or "".
func nearest(name string, known []string) string {
	best, distance := "", 1+max(len(name)/3, 1)
	for _, k := range known {
		if d := editDistance(strings.ToLower(name), strings.ToLower(k)); d < distance {
			best, distance = k, d
		}
	}
	return best
}

// editDistance counts insertions, deletions, substitutions and swaps of neighbours.
func editDistance(a, b string) int {
	ra, rb := []rune(a), []rune(b)
	rows := make([][]int, len(ra)+1)
	for i := range rows {
		rows[i] = make([]int, len(rb)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(ra); i++ {
		for j := 1; j <= len(rb); j++ {
			cost := 1
			if ra[i-1] == rb[j-1] {
				cost = 0
			}
			rows[i][j] = min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && ra[i-1] == rb[j-2] && ra[i-2] == rb[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(ra)][len(rb)]
}
