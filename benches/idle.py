"""Holds connections to an m2y server open, for limits.sh.

    idle.py raw N HOST PORT             connects, says nothing
    idle.py session N HOST PORT ROOT    sends a file of no bytes over each, then says nothing

Prints a line when all are held, waits for the end of standard input, closes them.
`session` needs the package `cryptography`. The client is the least that a server
accepts (src/wire/protocol.md): it checks no signature and no seal of a record.
"""

import hashlib, json, os, socket, struct, sys, time, zlib
from concurrent.futures import ThreadPoolExecutor

FROM, TO, FOLDER = "zhenqiang", "roland-frei", "photo"


def connect(address):
    return socket.create_connection(address, timeout=120)


def exactly(sock, n):
    data = b""
    while len(data) < n:
        more = sock.recv(n - len(data))
        if not more:
            raise SystemExit("the server closed a connection")
        data += more
    return data


def opener(root):
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import padding
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    def read(path):
        with open(os.path.join(root, "user", FROM, path), "rb") as file:
            return file.read()

    own = serialization.load_pem_private_key(read(f"privateKey/{FROM}.data"), None)
    peer = serialization.load_pem_public_key(read(f"pubKey/{TO}.data"))
    own_size, peer_size = own.key_size // 8, peer.key_size // 8

    def fingerprint(key):
        kinds = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        return hashlib.sha256(key.public_bytes(*kinds)).digest()

    mine, theirs = fingerprint(own.public_key()), fingerprint(peer)

    def name_hash(name):
        return hashlib.sha256(name.encode()).digest()[:8]

    def oaep(label):
        return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), label)

    def hkdf(salt, secret, info, n=16):
        return HKDF(hashes.SHA256(), n, salt, info).derive(secret)

    def nonce(number, last=1):
        return number.to_bytes(11, "big") + bytes([last])

    def record(key, number, kind, body):
        head = struct.pack(">BBHII", kind, 1, 0, 0, len(body))
        return head + AESGCM(key).encrypt(nonce(number), body, head)

    def meta(n):
        fields = {
            "from": FROM, "to": TO, "folder": FOLDER, "filename": f"idle{n}.bin",
            "datetime": time.strftime("%d-%m-%Y_%H-%M-%S", time.gmtime()), "filesize": 0,
            "fileCRC": "", "filekey": "", "error": "", "id": os.urandom(16).hex(), "metaCRC": "",
        }

        def canonical():
            return json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()

        fields["metaCRC"] = zlib.crc32(canonical())
        return canonical(), bytes.fromhex(fields["id"])

    def open_session(address, n):
        sock = connect(address)
        text, file_id = meta(n)
        share = X25519PrivateKey.generate()
        plain = share.public_key().public_bytes_raw() + text
        length = 1 + 8 + peer_size + len(plain) + 16 + own_size
        header = struct.pack(">HHI", 1, 0, length) + name_hash(FROM) + name_hash(TO)
        label, secret = b"m2y/1 opening", os.urandom(32)
        key = hkdf(label, secret, header + mine + theirs)
        unsigned = struct.pack(">BQ", 1, time.time_ns() // 1_000_000) + peer.encrypt(secret, oaep(label))
        unsigned += AESGCM(key).encrypt(nonce(0), plain, b"")
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        opening = header + unsigned + own.sign(label + header + unsigned, pss, hashes.SHA256())
        sock.sendall(opening)

        head = exactly(sock, 8)
        _, status, length = struct.unpack(">HHI", head)
        if status:
            raise SystemExit(f"the server turned us away: status {status}")
        envelope = exactly(sock, length)
        label, digest = b"m2y/1 answer", hashlib.sha256(opening).digest()
        answered = own.decrypt(envelope[9 : 9 + own_size], oaep(label))
        key = hkdf(label, answered, digest + head + theirs + mine)
        plain = AESGCM(key).decrypt(nonce(0), envelope[9 + own_size : length - peer_size], b"")
        answer = json.loads(plain[32:])
        if not answer["filekey"]:
            raise SystemExit(f"the server refused: {answer['error']}")

        transcript = hashlib.sha256(digest + head + envelope).digest()
        shared = share.exchange(X25519PublicKey.from_public_bytes(plain[:32]))
        secrets = shared + secret + answered
        client = hkdf(transcript, secrets, b"m2y/1 client records")
        files = hkdf(transcript, secrets, b"m2y/1 files", 32)
        blocks = hkdf(files, bytes.fromhex(answer["filekey"]), b"m2y/1 client blocks" + file_id + bytes(4))
        sock.sendall(record(blocks, 0, 3, b"") + record(client, 0, 4, bytes(8)))
        while True:
            kind, _, _, _, length = struct.unpack(">BBHII", exactly(sock, 12))
            exactly(sock, length + 16)
            if kind == 5:
                return sock
            if kind != 8:
                raise SystemExit(f"the server sent a record of kind {kind} in place of the ACK")

    return open_session


def main():
    mode, many, address = sys.argv[1], int(sys.argv[2]), (sys.argv[3], int(sys.argv[4]))
    if mode == "raw":
        held = [connect(address) for _ in range(many)]
    else:
        open_session = opener(sys.argv[5])
        with ThreadPoolExecutor(4) as pool:
            held = list(pool.map(lambda n: open_session(address, n), range(many)))
    print(f"held {len(held)}", flush=True)
    sys.stdin.read()


main()
