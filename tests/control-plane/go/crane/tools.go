//go:build tools

// Package tools names the registry client, so that go.mod and go.sum pin all that it needs.
package tools

import _ "github.com/google/go-containerregistry/cmd/crane"
