# Build: docker build -t batch-export-watcher .
# Run:   docker run --rm -v ./config:/etc/batch-export-watcher:ro -v bew:/var/lib/batch-export-watcher \
#          -v ./batch-rest-key:/run/secrets/batch-rest-key:ro batch-export-watcher
FROM rust:1.95-bookworm AS build
WORKDIR /src
# The dependencies first, against an empty program: they are built again only when the lock file changes.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && cargo build --release --locked && rm -r src
COPY src ./src
RUN touch src/main.rs src/lib.rs && cargo build --release --locked

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -o 65532 -g 65532 -m 0700 /var/lib/batch-export-watcher
COPY --from=build /src/target/release/batch-export-watcher /usr/bin/batch-export-watcher
USER 65532:65532
VOLUME ["/var/lib/batch-export-watcher"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/bin/batch-export-watcher"]
CMD ["run"]
