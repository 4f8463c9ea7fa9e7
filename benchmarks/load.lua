-- One text a request, new every time unless TEXT is given; PAUSE is milliseconds that a connection rests before it asks.
local words = {}
for word in ("tide moon river stone house garden winter light market paper road city music water window bread letter " ..
    "teacher season forest bridge captain harvest island mirror engine cotton valley silver border"):gmatch("%a+") do
  words[#words + 1] = word
end
math.randomseed(tonumber(os.getenv("SEED")))
local model, text, pause = os.getenv("MODEL"), os.getenv("TEXT"), tonumber(os.getenv("PAUSE") or "0")

local function new_text()
  local chosen = {}
  for place = 1, 12 do chosen[place] = words[math.random(#words)] end
  return table.concat(chosen, " ")
end

wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"

function request()
  local body = '{"model":"' .. model .. '","encoding_format":"base64","input":"' .. (text or new_text()) .. '"}'
  return wrk.format(nil, nil, nil, body)
end

if pause > 0 then
  -- Not all at the same moment.
  function delay() return pause * (0.5 + math.random()) end
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"requests": %d, "seconds": %.6f, "p50": %.6f, "p95": %.6f, "p99": %.6f, ' ..
    '"refused": %d, "connect": %d, "read": %d, "write": %d, "timeout": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e6, latency:percentile(95) / 1e6,
    latency:percentile(99) / 1e6, errors.status, errors.connect, errors.read, errors.write, errors.timeout))
end
