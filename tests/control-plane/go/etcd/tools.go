//go:build tools

// Package tools names the program of the embedded control plane's store, so that go.mod and go.sum pin all that it needs.
package tools

import _ "go.etcd.io/etcd/server/v3"
