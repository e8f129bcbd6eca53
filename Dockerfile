# syntax=docker/dockerfile:1
# The operator's image: one static program under its two names, a CA bundle, and nothing else.
#   docker build --tag ghcr.io/openbao-operator/openbao-operator:dev .

FROM rust:1.95-bookworm AS build
WORKDIR /source
COPY . .
# A statically linked glibc resolves names through DNS without any file beside it.
ENV CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static" \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"
RUN target="$(uname -m)-unknown-linux-gnu" \
 && cargo build --locked --release --target "$target" --package openbao-operator --bin openbao-operator \
 && mkdir -p /out/etc/ssl/certs \
 && install -d -m 1777 /out/tmp \
 && cp "target/$target/release/openbao-operator" /out/openbao-operator \
 && ln /out/openbao-operator /out/bao-backup \
 && cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/

FROM scratch
COPY --from=build /out/ /
USER 65532:65532
ENTRYPOINT ["/openbao-operator"]
