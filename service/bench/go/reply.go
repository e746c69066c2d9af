package main

import (
	"bytes"
	"strconv"
)

// reply reads one answer as it arrives. What is wrong with it ends up in `fault`.
type reply struct {
	carry  []byte // of the head or of a chunk's size that is not complete yet
	kept   []byte // of the body, where a token or the end mark may have begun
	phase  int
	left   int // bytes of the body or of the chunk
	status int
	tokens int
	ended  bool // the stream's own end mark was there
	fault  string
	delay  *histogram // of tokens, from their writing to their arrival
	first  int64      // when the first token arrived
}

const (
	inHead = iota
	inBody
	inSize
	inChunk
	afterChunk
	inTrailer
	toEnd // of the connection
	done
)

func (r *reply) begin() {
	r.carry, r.kept = r.carry[:0], r.kept[:0]
	r.phase, r.left, r.status, r.tokens, r.ended, r.fault, r.first = inHead, 0, 0, 0, false, "", 0
}

// take reads data that arrived at a certain time.
func (r *reply) take(data []byte, at int64) {
	for len(data) > 0 && r.fault == "" {
		switch r.phase {
		case inHead, inSize, inTrailer:
			data = r.line(data)
		case afterChunk:
			count := min(r.left, len(data))
			data = data[count:]
			if r.left -= count; r.left == 0 {
				r.phase = inSize
			}
		case inBody, inChunk:
			count := min(r.left, len(data))
			r.content(data[:count], at)
			data = data[count:]
			if r.left -= count; r.left == 0 {
				if r.phase == inBody {
					r.phase = done
				} else {
					r.phase, r.left = afterChunk, 2
				}
			}
		case toEnd:
			r.content(data, at)
			data = nil
		case done:
			r.fault = "more than one answer"
		}
	}
}

// line reads a line, or the whole head, that may arrive in parts; returns what follows it.
func (r *reply) line(data []byte) []byte {
	end := "\r\n"
	if r.phase == inHead {
		end = "\r\n\r\n"
	}
	seen := len(r.carry)
	r.carry = append(r.carry, data...)
	at := bytes.Index(r.carry, []byte(end))
	if at < 0 {
		if len(r.carry) > 65536 {
			r.fault = "a head without end"
		}
		return nil
	}
	line := r.carry[:at]
	rest := data[at+len(end)-seen:]
	switch r.phase {
	case inHead:
		r.begun(r.carry[:at+2])
	case inTrailer:
		if at == 0 {
			r.phase = done
		}
	case inSize:
		hex, _, _ := bytes.Cut(line, []byte(";"))
		size, err := strconv.ParseInt(string(bytes.TrimSpace(hex)), 16, 32)
		if err != nil {
			r.fault = "a chunk without size"
		}
		r.phase, r.left = inChunk, int(size)
		if size == 0 {
			r.phase = inTrailer
		}
	}
	r.carry = r.carry[:0]
	return rest
}

func (r *reply) begun(head []byte) {
	if len(head) > 12 {
		r.status, _ = strconv.Atoi(string(head[9:12]))
	}
	if length := field(head, "content-length"); length != nil {
		r.left, _ = strconv.Atoi(string(length))
		r.phase = inBody
		if r.left == 0 {
			r.phase = done
		}
	} else if field(head, "transfer-encoding") != nil {
		r.phase = inSize
	} else {
		r.phase = toEnd
	}
}

var endMarks = [][]byte{[]byte("[DONE]"), []byte(`"done":true`)}

const longestMark = 11

// content looks for tokens, and behind the last of them for the end mark. Bytes at the end that may be the beginning of
// either are kept for the next part.
func (r *reply) content(data []byte, at int64) {
	if len(r.kept) > 0 {
		r.kept = append(r.kept, data...)
		data = r.kept
	}
	for {
		mark := bytes.IndexByte(data, '@')
		if mark < 0 {
			break
		}
		data = data[mark:]
		if len(data) <= stampDigits {
			r.kept = append(r.kept[:0], data...)
			return
		}
		r.token(data[1:1+stampDigits], at)
		data = data[1+stampDigits:]
	}
	for _, mark := range endMarks {
		r.ended = r.ended || bytes.Contains(data, mark)
	}
	r.kept = append(r.kept[:0], data[max(0, len(data)-longestMark):]...)
}

func (r *reply) token(digits []byte, at int64) {
	var written int64
	for _, digit := range digits {
		written = written*10 + int64(digit-'0')
	}
	if r.tokens++; r.tokens == 1 {
		r.first = at
	}
	r.delay.add(at - written)
}
