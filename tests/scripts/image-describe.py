"""Puts an image into the directory of images, with its description, its list of packages (SPDX) and its checksums.

Called by image.sh. The description is what `trove-controller datastore register` reads; docs/images.md explains it.
"""

import argparse
import datetime
import hashlib
import json
import os
import shutil
import sys
import uuid

NAMES = {"docker": "{}.docker.tar", "tar": "{}.tar", "qcow2": "{}.qcow2"}


def main():
    arguments = parse()
    with open(arguments.manifest, encoding="utf-8") as file:
        manifest = json.load(file)
    installation = manifest["installation"]
    name = f"{arguments.datastore}-{installation['major']}-{arguments.suite}"
    created = datetime.datetime.fromtimestamp(arguments.epoch, datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")

    def place(file):
        return os.path.join(arguments.images, file)

    image = NAMES[arguments.format].format(name)
    digest = sha256(arguments.image)
    agent = sha256(os.path.join(arguments.root, "usr/bin/trove-agent"))
    identity = uuid.uuid5(uuid.NAMESPACE_URL, f"sha256:{digest}")
    files = [{"format": arguments.format, "path": image, "size": os.path.getsize(arguments.image), "sha256": digest}]
    # Another format of the same contents is described beside it, under the id that is registered already.
    previous = read(place(f"{name}.json"))
    parts = {"base": arguments.base, "agent_sha256": agent, "manifest": manifest}
    if previous and all(previous.get(part) == value for part, value in parts.items()):
        others = [file for file in previous["files"] if file["format"] != arguments.format]
        others = [file for file in others if os.path.exists(place(file["path"]))]
        if others:
            identity = previous["id"]
            files = sorted(files + others, key=lambda file: list(NAMES).index(file["format"]))
    description = {
        "format": 1,
        "name": name,
        "id": str(identity),
        "datastore": arguments.datastore,
        "version": installation["version"],
        "suite": arguments.suite,
        "created": created,
        "base": arguments.base,
        "agent_sha256": agent,
        "files": files,
        "packages": f"{name}.spdx.json",
        "manifest": manifest,
    }
    packages = installed(arguments.root)
    shutil.move(arguments.image, place(image + ".part"))
    os.replace(place(image + ".part"), place(image))
    others = [own("trove-agent", None, agent, "Apache-2.0")]
    # An engine that is not Debian's is in no list of packages.
    if installation["bindir"].startswith("/usr/local/"):
        others.append(own(arguments.datastore, installation["version"], None, "NOASSERTION"))
    write(place(f"{name}.spdx.json"), spdx(name, created, digest, packages, arguments.suite, others))
    sums = "".join(f"{file['sha256']}  {file['path']}\n" for file in files)
    sums += f"{sha256(place(name + '.spdx.json'))}  {name}.spdx.json\n"
    replace(place(f"{name}.sha256"), sums)
    # The description comes last: whoever reads it finds all that it names.
    write(place(f"{name}.json"), description)
    size = files[0]["size"] if len(files) == 1 else os.path.getsize(place(image))
    print(f"image: {place(name + '.json')}: {arguments.format}, {size / 1e6:.0f} MB, {len(packages)} packages")


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--datastore", required=True)
    parser.add_argument("--suite", required=True)
    parser.add_argument("--format", required=True, choices=sorted(NAMES))
    parser.add_argument("--base", required=True, help="what stands for the contents without the agent")
    parser.add_argument("--image", required=True, help="the image's file; it is moved")
    parser.add_argument("--root", required=True, help="a directory with the image's contents")
    parser.add_argument("--manifest", required=True)
    parser.add_argument("--epoch", required=True, type=int)
    parser.add_argument("--images", required=True, help="where everything goes")
    return parser.parse_args()


def installed(root):
    """Name, version and architecture of each installed Debian package."""
    packages = []
    with open(os.path.join(root, "var/lib/dpkg/status"), encoding="utf-8") as file:
        for stanza in file.read().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line and line[0] != " ")
            if fields.get("Status") == "install ok installed":
                packages.append((fields["Package"], fields["Version"], fields["Architecture"]))
    if not packages:
        sys.exit("image: the image has no list of packages")
    return sorted(packages)


def own(name, version, digest, licence):
    """A package that dpkg does not know."""
    entry = {
        "SPDXID": f"SPDXRef-{name}",
        "name": name,
        "downloadLocation": "NOASSERTION",
        "licenseConcluded": licence,
        "licenseDeclared": licence,
        "copyrightText": "NOASSERTION",
        "filesAnalyzed": False,
    }
    if version:
        entry["versionInfo"] = version
    if digest:
        entry["checksums"] = [{"algorithm": "SHA256", "checksumValue": digest}]
    return entry


def spdx(name, created, digest, packages, suite, others):
    """The list of packages as an SPDX 2.3 document."""
    entries = [
        {
            "SPDXID": f"SPDXRef-deb-{index}",
            "name": package,
            "versionInfo": version,
            "supplier": "Organization: Debian",
            "downloadLocation": "NOASSERTION",
            "licenseConcluded": "NOASSERTION",
            "licenseDeclared": "NOASSERTION",
            "copyrightText": "NOASSERTION",
            "filesAnalyzed": False,
            "externalRefs": [
                {
                    "referenceCategory": "PACKAGE-MANAGER",
                    "referenceType": "purl",
                    "referenceLocator": f"pkg:deb/debian/{package}@{version.replace('+', '%2B').replace(':', '%3A')}"
                    f"?arch={architecture}&distro={suite}",
                }
            ],
        }
        for index, (package, version, architecture) in enumerate(packages)
    ]
    entries += others
    return {
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": name,
        "documentNamespace": f"https://spdx.org/spdxdocs/{name}-{uuid.uuid5(uuid.NAMESPACE_URL, 'sha256:' + digest)}",
        "creationInfo": {"created": created, "creators": ["Tool: trove-rs image.sh"]},
        "packages": entries,
        "relationships": [
            {
                "spdxElementId": "SPDXRef-DOCUMENT",
                "relationshipType": "DESCRIBES",
                "relatedSpdxElement": entry["SPDXID"],
            }
            for entry in entries
        ],
    }


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path):
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def write(path, value):
    replace(path, json.dumps(value, indent=2) + "\n")


def replace(path, text):
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".part", path)


if __name__ == "__main__":
    main()
