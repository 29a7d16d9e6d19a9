// Bodies are laid out anew as text, so that they are shown as they were sent.

import assert from 'node:assert/strict';
import test from 'node:test';
import { compact, members, pretty } from '../../src/http/console/json.js';

const TEXT = ' { "n" : 9007199254740993 , "n": 1.0, "s": "a \\" {b}, c", "list": [ ], "deep": {"x": [true, null]} } ';

test('no number is rounded, no key is lost', () => {
  assert.equal(compact(TEXT), '{"n":9007199254740993,"n":1.0,"s":"a \\" {b}, c","list":[],"deep":{"x":[true,null]}}');
});

test('members are found at the first level only', () => {
  const found = members(TEXT);
  assert.deepEqual([...found.keys()], ['n', 's', 'list', 'deep']);
  assert.equal(found.get('deep'), '{"x": [true, null]}');
});

test('a body is indented by two', () => {
  const text = pretty('{"a":[1,{"b":"c"}],"d":{}}').map(([, piece]) => piece).join('');
  assert.equal(text, '{\n  "a": [\n    1,\n    {\n      "b": "c"\n    }\n  ],\n  "d": {}\n}');
});
