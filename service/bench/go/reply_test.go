package main

import (
	"fmt"
	"strings"
	"testing"
)

func streamed(dialect string, tokens int) []byte {
	w := wireOf(dialect)
	answer := append([]byte{}, w.head...)
	for range tokens {
		answer = append(answer, w.token(1_700_000_000_000_000_000)...)
	}
	return append(answer, w.end...)
}

func readInParts(answer []byte, size int) *reply {
	r := &reply{delay: &histogram{}}
	r.begin()
	for at := 0; at < len(answer); at += size {
		r.take(answer[at:min(at+size, len(answer))], 1_700_000_000_000_001_000)
	}
	return r
}

func TestAStreamIsReadTheSameHoweverItIsCut(t *testing.T) {
	for _, dialect := range []string{"openai", "ollama"} {
		answer := streamed(dialect, 7)
		for size := 1; size <= len(answer); size++ {
			r := readInParts(answer, size)
			if r.fault != "" || r.phase != done || r.status != 200 || r.tokens != 7 || !r.ended {
				t.Fatalf("%s in parts of %d: %+v", dialect, size, r)
			}
			if r.delay.count != 7 || r.delay.most != 1000 {
				t.Fatalf("%s in parts of %d: delays %d, longest %d", dialect, size, r.delay.count, r.delay.most)
			}
		}
	}
}

func TestAnAnswerWithoutLengthLastsUntilItsConnectionEnds(t *testing.T) {
	r := readInParts(streamed("mlx", 3), 50)
	if r.phase != toEnd || r.tokens != 3 || !r.ended {
		t.Fatalf("%+v", r)
	}
}

func TestAWholeAnswerEndsWithItsLength(t *testing.T) {
	w := wireOf("openai")
	for size := 1; size <= len(w.whole); size++ {
		if r := readInParts(w.whole, size); r.phase != done || r.fault != "" || r.status != 200 {
			t.Fatalf("in parts of %d: %+v", size, r)
		}
	}
	if r := readInParts(append(append([]byte{}, w.whole...), 'x'), 1000); r.fault == "" {
		t.Fatal("a byte too many was not noticed")
	}
}

func TestAStreamThatBreaksOffIsNotTakenForAWholeOne(t *testing.T) {
	answer := streamed("openai", 3)
	for cut := range answer {
		if r := readInParts(answer[:cut], max(1, cut)); r.phase == done {
			t.Fatalf("cut at %d: %+v", cut, r)
		}
	}
}

func TestRequestsAreFoundWithAnyLetterCaseAndFraming(t *testing.T) {
	body := `{"stream": true}`
	for _, head := range []string{
		fmt.Sprintf("POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s", len(body), body),
		fmt.Sprintf("POST / HTTP/1.1\r\ncontent-length:%d\r\nhost: x\r\n\r\n%s", len(body), body),
		fmt.Sprintf("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body),
	} {
		_, found, size := request([]byte(head + "GET"))
		if size != len(head) || !strings.Contains(string(found), body) {
			t.Fatalf("%q: %q, %d", head, found, size)
		}
		if _, _, size := request([]byte(head[:len(head)-1])); size != 0 {
			t.Fatalf("%q without its last byte was taken for whole", head)
		}
	}
}

func TestQuantilesAreNotFartherOffThanABucket(t *testing.T) {
	h := &histogram{}
	for value := int64(1); value <= 100_000; value++ {
		h.add(value * 1000)
	}
	for share, want := range map[float64]float64{0.5: 50, 0.99: 99, 1: 100} {
		if got := h.quantile(share); got < want*0.99 || got > want*1.01 {
			t.Fatalf("%v: %v ms in place of %v ms", share, got, want)
		}
	}
}
