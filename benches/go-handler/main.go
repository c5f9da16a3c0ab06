// Command go-handler does the webhook's job the usual way in Go: net/http, a typed AdmissionReview and a typed Pod.
// The load bench measures it next to the webhook.
package main

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net/http"
	"strings"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
)

const pullSecret = "acr-pull-secret"

func main() {
	address := flag.String("address", "127.0.0.1:8443", "where to listen")
	certificate := flag.String("certificate", "", "file with the certificate")
	key := flag.String("key", "", "file with its key")
	flag.Parse()
	http.HandleFunc("/mutate", mutate)
	// No session tickets, as the servers that it is measured with: the API server resumes no session.
	server := &http.Server{Addr: *address, TLSConfig: &tls.Config{SessionTicketsDisabled: true}}
	log.Fatal(server.ListenAndServeTLS(*certificate, *key))
}

func mutate(writer http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(request.Body)
	if err != nil {
		http.Error(writer, err.Error(), http.StatusBadRequest)
		return
	}
	answer, err := answer(body)
	if err != nil {
		http.Error(writer, err.Error(), http.StatusBadRequest)
		return
	}
	writer.Header().Set("Content-Type", "application/json")
	writer.Write(answer)
}

func answer(body []byte) ([]byte, error) {
	var review admissionv1.AdmissionReview
	if err := json.Unmarshal(body, &review); err != nil {
		return nil, err
	}
	var pod corev1.Pod
	if err := json.Unmarshal(review.Request.Object.Raw, &pod); err != nil {
		return nil, err
	}
	response := &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
	if pullsFromRegistry(&pod.Spec) {
		list := append(pod.Spec.ImagePullSecrets, corev1.LocalObjectReference{Name: pullSecret})
		patch, err := json.Marshal([]map[string]any{{"op": "add", "path": "/spec/imagePullSecrets", "value": list}})
		if err != nil {
			return nil, err
		}
		patchType := admissionv1.PatchTypeJSONPatch
		response.Patch, response.PatchType = patch, &patchType
	}
	return json.Marshal(admissionv1.AdmissionReview{TypeMeta: review.TypeMeta, Response: response})
}

func pullsFromRegistry(spec *corev1.PodSpec) bool {
	for _, containers := range [][]corev1.Container{spec.Containers, spec.InitContainers} {
		for _, container := range containers {
			host, _, _ := strings.Cut(container.Image, "/")
			if strings.HasSuffix(host, ".azurecr.io") {
				return true
			}
		}
	}
	return false
}
