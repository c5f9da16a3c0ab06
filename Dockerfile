# One platform:   docker build --tag acr-pull-injector .
# Both:           docker buildx build --platform linux/amd64,linux/arm64 --tag ... --push .
# Each platform is compiled natively inside its own base image: on a builder of that architecture, else under emulation.
# The C parts (aws-lc) need the C compiler that the base image has, and nothing else.

FROM rust:1.95-slim-bookworm AS toolchain
WORKDIR /build

# The manifests, with an empty program in place of every source file. What comes out is the same until a manifest changes
# or a target is added, and then so is the layer with the dependencies below.
FROM toolchain AS manifests
COPY . /build
RUN echo 'fn main() {}' > /tmp/empty.rs \
    && find . -regextype posix-extended -type f ! -name Cargo.toml ! -name Cargo.lock \
      ! -regex '.*/(src/(lib|main)|src/domain/lib|(tests|benches|examples)/([^/]+|[^/]+/(lib|main)))[.]rs' -delete \
    && find . -type f -name '*.rs' -exec cp /tmp/empty.rs {} ';' \
    && find . -type d -empty -delete

FROM toolchain AS build
# Writes the list of crates into the program, for scanners of images to read.
RUN cargo install --locked cargo-auditable@0.7.7
COPY --from=manifests /build /build
RUN cargo auditable build --release --locked --bin acr-pull-injector
COPY . /build
# Cargo goes by modification times, and those of a checkout may be older than the empty programs.
RUN find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
    && cargo auditable build --release --locked --bin acr-pull-injector

# glibc, libgcc and the CA certificates; no shell and no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="acr-pull-injector" \
      org.opencontainers.image.description="A Kubernetes admission webhook that makes pods pull from Azure Container Registry" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="https://github.com/acr-pull-injector/acr-pull-injector" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /build/target/release/acr-pull-injector /usr/local/bin/acr-pull-injector
# By number, so that Kubernetes can check runAsNonRoot.
USER 65532:65532
EXPOSE 8443 8080
ENTRYPOINT ["/usr/local/bin/acr-pull-injector"]
CMD ["serve"]
