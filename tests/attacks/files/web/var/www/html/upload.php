<?php
// Takes a picture under the name that the visitor gave, and compresses it.
$path = '/var/www/html/uploads/' . basename($_GET['name']);
file_put_contents($path, file_get_contents('php://input'));
exec('gzip -kf ' . escapeshellarg($path));
echo "kept\n";
