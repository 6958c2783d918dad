#!/usr/bin/env bash
# Build the package twice, compare, check it, and describe it. `make package` sets UV, PYTHON and TOOLS.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# The time of the last commit, unless the caller has set one: two builds of a commit have the same bytes.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
export SOURCE_DATE_EPOCH
umask 022

build() {
  rm -rf "$1"
  "$UV" build --quiet --python "$PYTHON" --build-constraint requirements-dev.txt --require-hashes --out-dir "$1" .
  rm -f "$1/.gitignore"
}

build .cache/dist-again
build dist
for file in dist/*; do
  cmp "$file" ".cache/dist-again/${file#dist/}"
done
rm -r .cache/dist-again
echo 'The build is reproducible.'

"$TOOLS/twine" check --strict dist/*
"$TOOLS/check-wheel-contents" dist/*.whl
# No address of an author is published.
"$TOOLS/pyroma" --min 10 --skip-tests AuthorEmail dist/*.tar.gz

version=$("$PYTHON" -c 'import pathlib, sys; print(pathlib.Path(sys.argv[1]).name.split("-")[1])' dist/*.whl)
# The SBOM lists the releases in requirements.txt, which the tests use. It takes name and version from a pyproject.toml
# whose version is static.
sed "s/^dynamic = .*/version = \"$version\"/" pyproject.toml >.cache/pyproject.toml
PYTHONWARNINGS=ignore "$TOOLS/cyclonedx-py" requirements requirements.txt --pyproject .cache/pyproject.toml \
  --mc-type library --output-reproducible --output-format JSON --output-file "dist/zoho_crm_delink-$version.cdx.json"
(cd dist && sha256sum -- *.whl *.tar.gz *.json >SHA256SUMS && sha256sum --check --quiet SHA256SUMS)
ls dist
