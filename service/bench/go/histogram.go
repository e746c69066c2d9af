package main

import "math/bits"

const finer = 7 // a bucket is at most 1/128 wide of what it holds

// histogram counts durations in nanoseconds.
type histogram struct {
	counts [(64 - finer) << finer]int
	count  int
	most   int64
}

func (h *histogram) add(nanoseconds int64) {
	nanoseconds = max(nanoseconds, 0)
	h.counts[bucket(nanoseconds)]++
	h.count++
	h.most = max(h.most, nanoseconds)
}

func bucket(value int64) int {
	shift := max(0, bits.Len64(uint64(value))-finer-1)
	return shift<<finer + int(value>>shift)
}

// quantile returns the duration, in milliseconds, that a share of all does not exceed.
func (h *histogram) quantile(share float64) float64 {
	rest := int(share * float64(h.count))
	for at, count := range h.counts {
		if rest -= count; rest < 0 {
			shift := max(0, at>>finer-1)
			return min(float64(int64(at-shift<<finer)<<shift), float64(h.most)) / 1e6
		}
	}
	return float64(h.most) / 1e6
}

// figures returns what is printed of a histogram, in milliseconds.
func (h *histogram) figures() map[string]float64 {
	return map[string]float64{"p50": h.quantile(0.5), "p99": h.quantile(0.99), "max": float64(h.most) / 1e6}
}
