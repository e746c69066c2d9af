package main

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// wire is how an engine of one kind answers.
type wire struct {
	whole     []byte
	head      []byte // of a stream
	before    []byte // of a token's time
	after     []byte
	end       []byte
	closes    bool // the connection, after each answer
	unasked   bool // streams unless told not to
	workspace []byte
}

const stampDigits = 19 // of a time in nanoseconds; they follow an "@"

var text = strings.Repeat("The quick brown fox jumps over the lazy dog. ", 6)

func wireOf(dialect string) wire {
	switch dialect {
	case "openai":
		return openai("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n", true)
	case "mlx": // it answers HTTP/1.0 and ends every reply by closing
		w := openai("HTTP/1.0 200 OK\r\nContent-type: text/event-stream\r\nCache-Control: no-cache\r\n\r\n", false)
		w.whole = bytes.Replace(w.whole, []byte("HTTP/1.1"), []byte("HTTP/1.0"), 1)
		w.closes = true
		return w
	case "ollama":
		return ollama()
	}
	fail("there is no dialect %q", dialect)
	return wire{}
}

func openai(head string, inChunks bool) wire {
	const event = `data: {"id":"chatcmpl-1","object":"chat.completion.chunk","created":1700000000,"model":"bench",` +
		`"choices":[{"index":0,"delta":%s,"finish_reason":%s}]}` + "\n\n"
	before, after, _ := strings.Cut(fmt.Sprintf(event, `{"content":"@"}`, "null"), "@")
	w := wire{head: []byte(head), whole: plain(
		`{"id":"chatcmpl-1","object":"chat.completion","created":1700000000,"model":"bench","choices":[{"index":0,` +
			`"finish_reason":"stop","message":{"role":"assistant","content":"` + text + `"}}],` +
			`"usage":{"prompt_tokens":250,"completion_tokens":60,"total_tokens":310}}`)}
	w.frame(before+"@", after, []string{fmt.Sprintf(event, "{}", `"stop"`), "data: [DONE]\n\n"}, inChunks)
	return w
}

func ollama() wire {
	const line = `{"model":"bench","created_at":"2026-01-01T00:00:00.000000Z","message":{"role":"assistant","content":"%s"},` +
		`"done":%s}` + "\n"
	const figures = `true,"done_reason":"stop","total_duration":200000000,"load_duration":1000000,` +
		`"prompt_eval_count":250,"prompt_eval_duration":50000000,"eval_count":100,"eval_duration":149000000`
	before, after, _ := strings.Cut(fmt.Sprintf(line, "@", "false"), "@")
	w := wire{
		head:    []byte("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"),
		whole:   plain(fmt.Sprintf(line, text, figures)),
		unasked: true,
	}
	w.frame(before+"@", after, []string{fmt.Sprintf(line, "", figures)}, true)
	return w
}

// frame prepares the pieces of a stream, each as an HTTP chunk where the body is chunked.
func (w *wire) frame(before, after string, end []string, inChunks bool) {
	if !inChunks {
		w.before, w.after, w.end = []byte(before), []byte(after), []byte(strings.Join(end, ""))
		return
	}
	size := len(before) + stampDigits + len(after)
	w.before = fmt.Appendf(nil, "%x\r\n%s", size, before)
	w.after = []byte(after + "\r\n")
	for _, piece := range end {
		w.end = fmt.Appendf(w.end, "%x\r\n%s\r\n", len(piece), piece)
	}
	w.end = append(w.end, "0\r\n\r\n"...)
}

// token returns the piece of a stream that is written at this time; it holds until the next.
func (w *wire) token(at int64) []byte {
	w.workspace = append(w.workspace[:0], w.before...)
	w.workspace = strconv.AppendInt(w.workspace, at, 10)
	w.workspace = append(w.workspace, w.after...)
	return w.workspace
}

// streams says whether a request asks for a stream.
func (w *wire) streams(body []byte) bool {
	at := bytes.Index(body, []byte(`"stream":`))
	if at < 0 {
		return w.unasked
	}
	return bytes.HasPrefix(bytes.TrimLeft(body[at+len(`"stream":`):], " "), []byte("true"))
}

func plain(body string) []byte {
	return fmt.Appendf(nil, "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s", len(body), body)
}

// about answers what gateways ask before and between prompts: which models there are, and whether all is well.
func about(path string) string {
	switch path {
	case "/v1/models":
		return `{"object":"list","data":[{"id":"bench","object":"model","created":1700000000,"owned_by":"bench"}]}`
	case "/api/tags":
		return `{"models":[{"name":"bench","model":"bench","size":1,"digest":"0"}]}`
	case "/api/version":
		return `{"version":"0.33.0"}`
	}
	return `{"status":"ok","model_path":"bench","tokenizer_path":"bench","served_model_name":"bench","is_generation":true}`
}
