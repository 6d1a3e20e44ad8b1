# The image holds the program, the C library it was linked against and the certificate authorities: no shell, no package
# manager. docs/deploy-container.md says how to build and run it.

# Debian 12 with a Rust toolchain, a C compiler and CA certificates; the program's C library comes from it, too.
ARG BASE_BUILD=rust:1.95-bookworm

FROM ${BASE_BUILD} AS build
# "true" where all crates are already in the Cargo home and the network is to be left alone.
ARG CARGO_NET_OFFLINE=false
WORKDIR /src
# The dependencies first, against empty programs: they are built again only when a manifest or the lock file changes.
COPY Cargo.toml Cargo.lock ./
COPY xtask/Cargo.toml xtask/
RUN for manifest in Cargo.toml */Cargo.toml; do \
        if [ -e "$manifest" ]; then \
            sources=$(dirname "$manifest")/src && mkdir "$sources" \
            && echo 'fn main() {}' > "$sources/main.rs" && touch "$sources/lib.rs" || exit 1; \
        fi; \
    done \
    && cargo build --release --locked -p batch-export-watcher && rm -r src
COPY src ./src
# Cargo goes by the time of a file, and the copied ones are older than the empty programs.
RUN touch src/main.rs src/lib.rs && cargo build --release --locked -p batch-export-watcher
# The program's root file system: what the loader needs, and what a scanner reads to know the packages it came from.
RUN set -eu; \
    install -D -m 0755 target/release/batch-export-watcher /image/usr/bin/batch-export-watcher; \
    ldd target/release/batch-export-watcher | grep -o '/[^ ]*' | xargs -I{} cp --parents -L {} /image; \
    install -d /image/etc /image/var/lib/dpkg/status.d; \
    printf 'nonroot:x:65532:65532:nonroot:/nonexistent:/nonexistent\n' > /image/etc/passwd; \
    printf 'nonroot:x:65532:\n' > /image/etc/group; \
    printf 'hosts: files dns\n' > /image/etc/nsswitch.conf; \
    cp -L /etc/os-release /image/etc/os-release; \
    for package in libc6 libgcc-s1 ca-certificates; do \
        dpkg-query --status "$package" > "/image/var/lib/dpkg/status.d/$package"; \
        copyright=/usr/share/doc/$package/copyright; \
        if [ -e "$copyright" ]; then install -D -m 0644 "$copyright" "/image$copyright"; fi; \
    done; \
    install -d -m 0700 /owned/exports /owned/state

FROM scratch
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="batch-export-watcher" \
      org.opencontainers.image.description="Watches export requests of the Batch.com API and downloads the finished files" \
      org.opencontainers.image.licenses="MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY --from=build /image/ /
# Not in the step above: a bundle that is only mounted over this one while the image is built stays out of it.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE /usr/share/doc/batch-export-watcher/copyright
# A new volume takes its owner from the folder that it covers.
COPY --from=build --chown=65532:65532 /owned/ /var/lib/batch-export-watcher/
# A number, so that an orchestrator can tell that it is not root.
USER 65532:65532
# Everything that is written: exports/ and state/.
VOLUME ["/var/lib/batch-export-watcher"]
STOPSIGNAL SIGTERM
# Ends with 1 after five seconds without an answer. Recovery at the start may take its time.
HEALTHCHECK --interval=30s --timeout=10s --start-period=60s --retries=3 \
    CMD ["/usr/bin/batch-export-watcher", "status", "--check"]
ENTRYPOINT ["/usr/bin/batch-export-watcher"]
CMD ["run"]
