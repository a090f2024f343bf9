# One image for every service: `docker run stampede order`. Built in layers, so that a change of our code does not compile
# the dependencies again.
#
#   docker build -t stampede .
#   docker build --target sbom --output . .    what it is made of, as a file
ARG RUST=1.95

FROM rust:${RUST}-slim-bookworm AS chef
# For librdkafka, its OpenSSL, and aws-lc.
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ make perl \
    && rm -rf /var/lib/apt/lists/* \
    && cargo install cargo-chef --locked --version 0.1.78 \
    && cargo install cargo-cyclonedx --locked --version 0.5.9
# The image at the end has no zlib: it is linked in.
ENV LIBZ_SYS_STATIC=1
WORKDIR /src

FROM chef AS plan
COPY . .
RUN cargo chef prepare --recipe-path recipe.json

FROM chef AS build
COPY --from=plan /src/recipe.json recipe.json
RUN cargo chef cook --profile dist --locked --package stampede --recipe-path recipe.json
COPY . .
# For `stampede --version`: the image is built without the repository's history.
ARG STAMPEDE_COMMIT=unknown
RUN cargo build --profile dist --locked --package stampede
# Nothing that the image at the end lacks.
RUN ldd target/dist/stampede \
    && ! ldd target/dist/stampede | grep -Ev 'linux-vdso|libgcc_s|libstdc\+\+|libm\.|libc\.|ld-linux'

# What the executable is made of, for whoever looks for crates with known flaws.
RUN cargo cyclonedx --manifest-path crates/stampede/Cargo.toml --format json --spec-version 1.5

FROM scratch AS sbom
COPY --from=build /src/crates/stampede/stampede.cdx.json /

# glibc, libgcc, libstdc++, certificates of authorities, time zones; no shell.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/dist/stampede /usr/local/bin/stampede
COPY --from=build /src/crates/stampede/stampede.cdx.json /usr/share/doc/stampede/
# Every port of a container, not of loopback; what is best for a machine is not for a fleet (config/default.toml).
ENV STAMPEDE__HOST__HTTP_LISTEN=0.0.0.0:8080 \
    STAMPEDE__HOST__GRPC_LISTEN=0.0.0.0:9090 \
    STAMPEDE__HOST__MIGRATE=false \
    STAMPEDE__HOST__DRAIN_SECONDS=5 \
    STAMPEDE__TELEMETRY__LOG_FORMAT=json
USER 65532:65532
EXPOSE 8080 9090
HEALTHCHECK --interval=5s --timeout=4s --start-period=60s --retries=6 \
    CMD ["/usr/local/bin/stampede", "healthcheck", "http://127.0.0.1:8080/livez"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/stampede"]
CMD ["all"]
