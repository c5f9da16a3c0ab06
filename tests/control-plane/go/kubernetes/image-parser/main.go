// What Kubernetes' own parser makes of images: a JSON string on each line in, a row of tests/fixtures/image-registry-more.tsv
// out. tests/fixtures/README.md tells how the fixture is made.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/distribution/reference"
	"k8s.io/kubernetes/pkg/util/parsers"
)

func main() {
	seen := map[string]bool{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var image string
		if err := json.Unmarshal(lines.Bytes(), &image); err != nil {
			log.Fatalf("%s: %v", lines.Bytes(), err)
		}
		if !seen[image] {
			seen[image] = true
			fmt.Println(row(image))
		}
	}
	if err := lines.Err(); err != nil {
		log.Fatal(err)
	}
}

// ParseImageName gives the default tag where there is none; the tag as written comes from the parser below it.
func row(image string) string {
	quoted := quote(image)
	repository, _, digest, err := parsers.ParseImageName(image)
	if err != nil {
		return fmt.Sprintf("%s\tINVALID\t\t\t", quoted)
	}
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		log.Fatalf("%s: %v", quoted, err)
	}
	if named.Name() != repository {
		log.Fatalf("%s: %s and %s", quoted, named.Name(), repository)
	}
	tag := ""
	if tagged, ok := named.(reference.Tagged); ok {
		tag = tagged.Tag()
	}
	return fmt.Sprintf("%s\t%s\t%s\t%s\t%s", quoted, reference.Domain(named), reference.Path(named), tag, digest)
}

// JSON as the rest of the world writes it: Go would escape & too.
func quote(image string) string {
	var text strings.Builder
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(image); err != nil {
		log.Fatal(err)
	}
	return strings.TrimSuffix(text.String(), "\n")
}
