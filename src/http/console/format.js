// Numbers and times as they are shown: always in English notation, so that a screenshot reads the
// same everywhere. Pure.

export const number = (value, digits = 0) => value.toLocaleString('en', { minimumFractionDigits: digits, maximumFractionDigits: digits });

/** At most four figures, for where a longer number would not fit: `7`, `0.25`, `1,204`, `48.2k`, `3.1M`. */
export function short(value) {
  const unit = ['', 'k', 'M', 'G'].findIndex((_, index) => Math.abs(value) < 9999.5 * 1000 ** index || index === 3);
  const scaled = value / 1000 ** unit;
  const digits = Number.isInteger(scaled) && unit === 0 ? 0 : Math.abs(scaled) < 1 ? 2 : Math.abs(scaled) < 100 ? 1 : 0;
  return number(scaled, digits) + ['', 'k', 'M', 'G'][unit];
}

export function bytes(count) {
  const unit = ['B', 'KiB', 'MiB', 'GiB'].findIndex((_, index) => count < 1024 ** (index + 1) || index === 3);
  return `${number(count / 1024 ** unit, unit === 0 ? 0 : 1)} ${['B', 'KiB', 'MiB', 'GiB'][unit]}`;
}

/** A time that something takes: `0.4 ms`, `12 ms`, `1.5 s`, `4 min`, `3 h`. */
export function duration(seconds) {
  if (seconds < 0.9995) return `${number(seconds * 1000, seconds < 0.00995 ? 1 : 0)} ms`;
  if (seconds < 99.95) return `${number(seconds, seconds < 9.995 ? 1 : 0)} s`;
  return seconds < 5970 ? `${number(seconds / 60)} min` : `${number(seconds / 3600)} h`;
}

export function clock(date) {
  const two = (value) => String(value).padStart(2, '0');
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}.${String(date.getMilliseconds()).padStart(3, '0')}`;
}
