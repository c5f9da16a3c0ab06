//go:build tools

// Package tools names the helm program, so that go.mod and go.sum pin all that it needs.
package tools

import _ "helm.sh/helm/v3/cmd/helm"
