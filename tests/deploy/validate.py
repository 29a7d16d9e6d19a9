"""Judges Kubernetes objects as the API server would, strictly: what the schema does not name is an error. Reads YAML on standard input
and prints the objects as JSON, one a line, or says what is wrong and exits with 1. Asks no cluster and no network.

Kubernetes' own kinds are judged by the schemas in kubernetes-validate, the others by the definitions in the files that are named as
arguments (CustomResourceDefinition), as their operator ships them.
"""

import json
import sys

import jsonschema
import kubernetes_validate
import yaml


def definitions(paths):
    """The schemas of custom kinds, by apiVersion and kind."""
    schemas = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            spec = yaml.safe_load(file)["spec"]
        for version in spec["versions"]:
            key = (f"{spec['group']}/{version['name']}", spec["names"]["kind"])
            schemas[key] = strict(version["schema"]["openAPIV3Schema"])
    return schemas


def strict(schema):
    """The same schema, but what it does not name is refused, where it does not say that anything goes."""
    if isinstance(schema, list):
        return [strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: strict(value) for key, value in schema.items()}
    named = isinstance(schema.get("properties"), dict)
    if named and schema.get("type") == "object" and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


def judge(thing, schemas):
    key = (thing.get("apiVersion"), thing.get("kind"))
    if key in schemas:
        # Metadata is Kubernetes' own, and no concern of the definition.
        rest = {name: value for name, value in thing.items() if name != "metadata"}
        jsonschema.validate(rest, schemas[key])
    else:
        kubernetes_validate.validate(thing, "1.37", strict=True)


def main():
    schemas = definitions(sys.argv[1:])
    things = [thing for thing in yaml.safe_load_all(sys.stdin) if thing]
    if not things:
        sys.exit("nothing to judge")
    wrong = False
    for thing in things:
        try:
            judge(thing, schemas)
        except (jsonschema.ValidationError, kubernetes_validate.SchemaNotFoundError) as error:
            wrong = True
            place = getattr(error, "json_path", "$")
            name = thing.get("metadata", {}).get("name")
            print(f"{thing.get('kind')} {name}: {place}: {error.message}", file=sys.stderr)
    if wrong:
        sys.exit(1)
    for thing in things:
        print(json.dumps(thing))


main()
