"""The messages of BuildKit's services that we read or write: field numbers of its published .proto files.

Fields that say nothing to us are left out; whoever sends them is not told.
"""

from pybuild.buildkit.wire import Field, Message, a_map

EMPTY = Message("Empty", {})
TIMESTAMP = Message("google.protobuf.Timestamp", {1: Field("seconds", "int"), 2: Field("nanos", "int")})
ANY = Message("google.protobuf.Any", {1: Field("type_url", "string"), 2: Field("value", "bytes")})
STATUS = Message(
    "google.rpc.Status", {1: Field("code", "int"), 2: Field("message", "string"), 3: Field("details", ANY, True)}
)
BYTES = Message("BytesMessage", {1: Field("data", "bytes")})

# -- moby.buildkit.v1 (api/services/control/control.proto, api/types/worker.proto)

PLATFORM = Message(
    "Platform", {1: Field("Architecture", "string"), 2: Field("OS", "string"), 3: Field("Variant", "string")}
)
VERSION = Message(
    "BuildkitVersion", {1: Field("package", "string"), 2: Field("version", "string"), 3: Field("revision", "string")}
)
WORKER = Message(
    "WorkerRecord",
    {1: Field("ID", "string"), 2: a_map("Labels"), 3: Field("platforms", PLATFORM, True), 5: Field("version", VERSION)},
)
WORKERS = Message("ListWorkersResponse", {1: Field("record", WORKER, True)})
INFO = Message("InfoResponse", {1: Field("version", VERSION)})
PRUNE = Message(
    "PruneRequest",
    {
        1: Field("filter", "string", True),
        2: Field("all", "bool"),
        3: Field("keepDuration", "int"),
        4: Field("reservedSpace", "int"),
        5: Field("maxUsedSpace", "int"),
        6: Field("minFreeSpace", "int"),
    },
)
USAGE = Message(
    "UsageRecord",
    {
        1: Field("ID", "string"),
        2: Field("Mutable", "bool"),
        3: Field("InUse", "bool"),
        4: Field("Size", "int"),
        6: Field("CreatedAt", TIMESTAMP),
        7: Field("LastUsedAt", TIMESTAMP),
        8: Field("UsageCount", "int"),
        9: Field("Description", "string"),
        10: Field("RecordType", "string"),
        11: Field("Shared", "bool"),
    },
)
DISK_USAGE = Message("DiskUsageResponse", {1: Field("record", USAGE, True)})
ENTRY = Message("CacheOptionsEntry", {1: Field("Type", "string"), 2: a_map("Attrs")})
CACHE = Message("CacheOptions", {4: Field("Exports", ENTRY, True), 5: Field("Imports", ENTRY, True)})
SOLVE = Message(
    "SolveRequest",
    {
        1: Field("Ref", "string"),
        2: Field("Definition", "bytes"),
        3: Field("ExporterDeprecated", "string"),
        4: a_map("ExporterAttrsDeprecated"),
        5: Field("Session", "string"),
        6: Field("Frontend", "string"),
        7: a_map("FrontendAttrs"),
        8: Field("Cache", CACHE),
        9: Field("Entitlements", "string", True),
        10: a_map("FrontendInputs", "bytes"),
        11: Field("Internal", "bool"),
        13: Field("Exporters", ENTRY, True),
    },
)
SOLVED = Message("SolveResponse", {1: a_map("ExporterResponse")})
STATUS_REQUEST = Message("StatusRequest", {1: Field("Ref", "string")})
POSITION = Message("Position", {1: Field("line", "int"), 2: Field("character", "int")})
RANGE = Message("Range", {1: Field("start", POSITION), 2: Field("end", POSITION)})
SOURCE_INFO = Message(
    "SourceInfo", {1: Field("filename", "string"), 2: Field("data", "bytes"), 4: Field("language", "string")}
)
VERTEX = Message(
    "Vertex",
    {
        1: Field("digest", "string"),
        2: Field("inputs", "string", True),
        3: Field("name", "string"),
        4: Field("cached", "bool"),
        5: Field("started", TIMESTAMP),
        6: Field("completed", TIMESTAMP),
        7: Field("error", "string"),
    },
)
VERTEX_STATUS = Message(
    "VertexStatus",
    {
        1: Field("ID", "string"),
        2: Field("vertex", "string"),
        3: Field("name", "string"),
        4: Field("current", "int"),
        5: Field("total", "int"),
        6: Field("timestamp", TIMESTAMP),
        7: Field("started", TIMESTAMP),
        8: Field("completed", TIMESTAMP),
    },
)
VERTEX_LOG = Message(
    "VertexLog",
    {
        1: Field("vertex", "string"),
        2: Field("timestamp", TIMESTAMP),
        3: Field("stream", "int"),
        4: Field("msg", "bytes"),
    },
)
VERTEX_WARNING = Message(
    "VertexWarning",
    {
        1: Field("vertex", "string"),
        2: Field("level", "int"),
        3: Field("short", "bytes"),
        4: Field("detail", "bytes", True),
        5: Field("url", "string"),
        6: Field("info", SOURCE_INFO),
        7: Field("ranges", RANGE, True),
    },
)
PROGRESS = Message(
    "StatusResponse",
    {
        1: Field("vertexes", VERTEX, True),
        2: Field("statuses", VERTEX_STATUS, True),
        3: Field("logs", VERTEX_LOG, True),
        4: Field("warnings", VERTEX_WARNING, True),
    },
)

# -- moby.buildkit.v1.frontend (frontend/gateway/pb/gateway.proto)

CAPABILITY = Message("APICap", {1: Field("ID", "string"), 2: Field("Enabled", "bool")})
PONG = Message(
    "PongResponse",
    {
        1: Field("FrontendAPICaps", CAPABILITY, True),
        2: Field("LLBCaps", CAPABILITY, True),
        3: Field("Workers", WORKER, True),
    },
)
GATEWAY_SOLVE = Message(
    "SolveRequest",
    {
        1: Field("Definition", "bytes"),
        2: Field("Frontend", "string"),
        3: a_map("FrontendOpt"),
        5: Field("allowResultReturn", "bool"),
        6: Field("allowResultArrayRef", "bool"),
        10: Field("Final", "bool"),
        12: Field("CacheImports", ENTRY, True),
        13: a_map("FrontendInputs", "bytes"),
        14: Field("Evaluate", "bool"),
    },
)
REF = Message("Ref", {1: Field("id", "string"), 2: Field("def", "bytes")})
REFS = Message("RefMap", {1: a_map("refs", REF)})
RESULT = Message(
    "Result",
    {1: Field("refDeprecated", "string"), 3: Field("ref", REF), 4: Field("refs", REFS), 10: a_map("metadata", "bytes")},
)
GATEWAY_SOLVED = Message("SolveResponse", {1: Field("ref", "string"), 3: Field("result", RESULT)})
RETURN = Message("ReturnRequest", {1: Field("result", RESULT), 2: Field("error", "bytes")})

# -- what a client's session serves

STAT = Message(
    "Stat",
    {
        1: Field("path", "string"),
        2: Field("mode", "uint"),
        3: Field("uid", "uint"),
        4: Field("gid", "uint"),
        5: Field("size", "int"),
        6: Field("modTime", "int"),
        7: Field("linkname", "string"),
        8: Field("devmajor", "int"),
        9: Field("devminor", "int"),
        10: a_map("xattrs", "bytes"),
    },
)
PACKET = Message(
    "Packet", {1: Field("type", "int"), 2: Field("stat", STAT), 3: Field("ID", "uint"), 4: Field("data", "bytes")}
)
CREDENTIALS_REQUEST = Message("CredentialsRequest", {1: Field("Host", "string")})
CREDENTIALS = Message("CredentialsResponse", {1: Field("Username", "string"), 2: Field("Secret", "string")})
SECRET_REQUEST = Message("GetSecretRequest", {1: Field("ID", "string")})
SECRET = Message("GetSecretResponse", {1: Field("data", "bytes")})
CHECK_AGENT = Message("CheckAgentRequest", {1: Field("ID", "string")})

# -- containerd.services.content.v1 (api/services/content/v1/content.proto), which a client's session serves too

CONTENT_REQUEST = Message("InfoRequest", {1: Field("digest", "string")})
READ_CONTENT = Message(
    "ReadContentRequest", {1: Field("digest", "string"), 2: Field("offset", "int"), 3: Field("size", "int")}
)
CONTENT = Message("ReadContentResponse", {1: Field("offset", "int"), 2: Field("data", "bytes")})
WRITE_CONTENT = Message(
    "WriteContentRequest",
    {
        1: Field("action", "int"),
        2: Field("ref", "string"),
        3: Field("total", "int"),
        4: Field("expected", "string"),
        5: Field("offset", "int"),
        6: Field("data", "bytes"),
    },
)
