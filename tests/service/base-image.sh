#!/usr/bin/env bash
# Makes a stand-in for the base image of the Dockerfile where no image registry can be reached: Debian 12 from the package
# archive that this machine uses, and this machine's Rust toolchain. Then: BASE_BUILD=IMAGE tests/service/container.sh
#
# usage: tests/service/base-image.sh [IMAGE]      (as root, with buildah, debootstrap and a Rust toolchain; about two minutes)
set -euo pipefail

image=${1:-localhost/rust-stand-in:latest}
for tool in buildah debootstrap rustc; do
    command -v "$tool" >/dev/null || { echo "skipped: $tool is not installed" >&2; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "skipped: a root file system can only be made by root" >&2; exit 77; }

work=$(mktemp -d "${TMPDIR:-/var/tmp}/base-image.XXXXXX")
container=
finish() {
    [ -z "$container" ] || buildah rm "$container" >/dev/null || true
    rm -rf --one-file-system "$work"
}
trap finish EXIT

# shellcheck disable=SC2016  # apt-get itself fills in the name
archive=$(apt-get indextargets --format '$(REPO_URI)' 'Codename: bookworm' 'Created-By: Packages' | head -n 1)
nice -n 5 debootstrap --variant=minbase --include=ca-certificates,gcc,libc6-dev bookworm "$work/root" ${archive:+"$archive"} \
    >"$work/log" 2>&1 || { tail -n 20 "$work/log" >&2; exit 1; }
rm -rf "$work"/root/var/cache/apt/archives/*.deb "$work"/root/var/lib/apt/lists/*

toolchain=$(rustc --print sysroot)
install -d "$work/root/usr/local/rust"
tar -C "$toolchain" --exclude=./share/doc -cf - . | tar -C "$work/root/usr/local/rust" -xf -

container=$(buildah from scratch)
mount=$(buildah mount "$container")
tar -C "$work/root" --one-file-system -cf - . | tar -C "$mount" -xf -
buildah umount "$container" >/dev/null
buildah config --env CARGO_HOME=/usr/local/cargo \
    --env PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin --cmd bash "$container"
buildah commit -q "$container" "$image" >/dev/null
echo "made $image"
