// Command traffic is both ends of the benchmark: an engine that costs next to nothing, and the load.
//
//	traffic engine -port P [-dialect openai|ollama|mlx]
//	traffic load -url URL -body FILE [options]
//
// Each is one thread around epoll and needs Linux. Every token of a stream holds the time at which it was written, so that
// the load knows how long each was under way.
package main

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
)

func main() {
	runtime.LockOSThread()
	debug.SetGCPercent(800)
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "engine":
			engineMain(os.Args[2:])
			return
		case "load":
			loadMain(os.Args[2:])
			return
		}
	}
	fail("usage: traffic engine|load [options]")
}

// fail ends the program; the reason goes to standard error.
func fail(format string, values ...any) {
	fmt.Fprintf(os.Stderr, "traffic: "+format+"\n", values...)
	os.Exit(2)
}
