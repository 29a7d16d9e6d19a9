// JSON as text: laid out anew without reading it into values, so that 9007199254740993, 1.0 and a
// repeated key are shown as they were sent. All functions expect text that JSON.parse accepts.

const TOKEN = /"[^"\\]*(?:\\.[^"\\]*)*"|[{}[\],:]|[^\s"{}[\],:]+/g;

export function isJson(text) {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

export function compact(text) {
  return (text.match(TOKEN) ?? []).join('');
}

/** The members of an object, name → text of the value. */
export function members(text) {
  const found = new Map();
  let [depth, name, start] = [0, null, -1];
  for (const { 0: token, index } of text.matchAll(TOKEN)) {
    if (depth === 1) {
      if (token === ',' || token === '}') {
        if (name !== null) found.set(name, text.slice(start, index).trim());
        [name, start] = [null, -1];
      } else if (name === null) {
        name = JSON.parse(token);
      } else if (start < 0) {
        start = index + 1; // behind the colon
      }
    }
    if (token === '{' || token === '[') depth += 1;
    if (token === '}' || token === ']') depth -= 1;
  }
  return found;
}

/** Indented by two, as `[kind, text]` pieces: `key`, `string`, `number`, `word` or `''`. */
export function pretty(text) {
  const tokens = text.match(TOKEN) ?? [];
  const pieces = [];
  let depth = 0;
  const newLine = () => `\n${'  '.repeat(depth)}`;
  tokens.forEach((token, index) => {
    const next = tokens[index + 1];
    const [opens, closes] = [token === '{' || token === '[', token === '}' || token === ']'];
    if (opens) {
      depth += 1;
      pieces.push(['', next === '}' || next === ']' ? token : token + newLine()]);
    } else if (closes) {
      depth -= 1;
      const empty = tokens[index - 1] === '{' || tokens[index - 1] === '[';
      pieces.push(['', empty ? token : newLine() + token]);
    } else if (token === ',') {
      pieces.push(['', token + newLine()]);
    } else if (token === ':') {
      pieces.push(['', ': ']);
    } else {
      pieces.push([kindOf(token, next), token]);
    }
  });
  return pieces;
}

function kindOf(token, next) {
  if (token.startsWith('"')) return next === ':' ? 'key' : 'string';
  return /^[-0-9]/.test(token) ? 'number' : 'word';
}
