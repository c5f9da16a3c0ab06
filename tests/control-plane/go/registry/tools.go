//go:build tools

// Package tools names the registry program, so that go.mod and go.sum pin all that it needs.
package tools

import _ "github.com/distribution/distribution/v3/cmd/registry"
