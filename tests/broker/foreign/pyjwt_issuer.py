"""An issuer of tokens: one command a line on standard input, one answer a line on standard output.

{"make": <algorithm>, "kid": <name>}   makes a key; the answer is its public half as a JWK
{"sign": <kid>, "claims": {...}}       the answer is a token, as a string
"""

import json
import sys

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

KINDS = {
    "RS256": (lambda: rsa.generate_private_key(65537, 2048), RSAAlgorithm),
    "ES256": (lambda: ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
    "EdDSA": (ed25519.Ed25519PrivateKey.generate, OKPAlgorithm),
}

keys = {}
for line in sys.stdin:
    command = json.loads(line)
    if "make" in command:
        algorithm, kid = command["make"], command["kid"]
        make, kind = KINDS[algorithm]
        key = make()
        keys[kid] = (algorithm, key)
        answer = json.loads(kind.to_jwk(key.public_key()))
        answer.update(kid=kid, use="sig", alg=algorithm)
    else:
        algorithm, key = keys[command["sign"]]
        answer = jwt.encode(command["claims"], key, algorithm, headers={"kid": command["sign"]})
    print(json.dumps(answer), flush=True)
